"""SSKD's losses against loops over rows in numpy."""

import numpy as np
import pytest
import torch
from edgekd_kernels.selfsupervised import (
    keep_best_ranked,
    self_supervision,
    similarity_transfer,
    transformed_kd,
    view_similarity,
)

N, VIEWS = 5, 4


def _softmax(row, temperature=1.0):
    e = np.exp((row - row.max()) / temperature)
    return e / e.sum()


def _similarity(projections):
    rows = []
    for row in range(N * VIEWS):
        if row % VIEWS:
            v = projections[row]
            normals = projections[::VIEWS]
            rows.append([v @ u / np.linalg.norm(v) / np.linalg.norm(u) for u in normals])
    return np.array(rows)


def _kept(ranks, ratio):
    wrong = sorted((rank, index) for index, rank in enumerate(ranks) if rank)
    chosen = {index for _, index in wrong[: int(len(wrong) * ratio)]}
    return [rank == 0 or index in chosen for index, rank in enumerate(ranks)]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_view_similarity_is_the_cosine_of_every_transformed_view_with_every_image(rng):
    projections = rng.normal(size=(N * VIEWS, 6))
    np.testing.assert_allclose(view_similarity(torch.tensor(projections)).numpy(), _similarity(projections), rtol=1e-10)


def test_self_supervision_is_the_mean_cross_entropy_over_transformed_views(rng):
    projections = rng.normal(size=(N * VIEWS, 6))
    similarity = _similarity(projections)
    expected = -np.mean([np.log(_softmax(similarity[i])[i // 3]) for i in range(N * 3)])
    values = self_supervision(torch.tensor(projections))
    assert values.shape == (N * VIEWS,)
    assert values[::VIEWS].abs().max() == 0
    assert values.mean().item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.75, 1.0])
def test_transformed_kd_is_the_mean_over_the_kept_rows(rng, ratio):
    student, teacher = rng.normal(size=(N * VIEWS, 7)), rng.normal(size=(N * VIEWS, 7)) * 2
    labels = np.repeat(rng.integers(0, 7, N), VIEWS)
    rows = [row for row in range(N * VIEWS) if row % VIEWS]
    ranks = [int((teacher[row] > teacher[row][labels[row]]).sum()) for row in rows]
    losses = []
    for row, is_kept in zip(rows, _kept(ranks, ratio), strict=True):
        p, q = _softmax(teacher[row], 4.0), _softmax(student[row], 4.0)
        losses += [16 * (p * (np.log(p) - np.log(q))).sum()] if is_kept else []
    values = transformed_kd(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), ratio=ratio)
    expected = np.mean(losses) if losses else 0.0
    assert values.mean().item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_similarity_transfer_is_the_mean_over_the_kept_rows(rng):
    student, teacher = rng.normal(size=(N * VIEWS, 3)), rng.normal(size=(N * VIEWS, 6))
    mine, theirs = _similarity(student), _similarity(teacher)
    ranks = [int((theirs[i] > theirs[i][i // 3]).sum()) for i in range(N * 3)]
    losses = []
    for i, is_kept in enumerate(_kept(ranks, 0.75)):
        p, q = _softmax(theirs[i], 0.5), _softmax(mine[i], 0.5)
        losses += [0.25 * (p * (np.log(p) - np.log(q))).sum()] if is_kept else []
    assert 0 < len(losses) < N * 3
    values = similarity_transfer(torch.tensor(student), torch.tensor(teacher))
    assert values.mean().item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_similarity_transfer_ignores_scale_and_vanishes_at_the_teacher(rng):
    student, teacher = torch.tensor(rng.normal(size=(N * VIEWS, 6))), torch.tensor(rng.normal(size=(N * VIEWS, 6)))
    torch.testing.assert_close(similarity_transfer(3 * student, 0.1 * teacher), similarity_transfer(student, teacher))
    assert similarity_transfer(teacher, teacher).abs().max() < 1e-12


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.75, 1.0])
def test_keep_best_ranked_counts_the_right_ones_and_a_share_of_the_wrong(rng, ratio):
    ranks = rng.integers(0, 4, 23)
    keep = keep_best_ranked(torch.tensor(ranks), ratio=ratio).numpy()
    assert keep.tolist() == _kept(ranks.tolist(), ratio)
    assert keep.sum() == (ranks == 0).sum() + int((ranks > 0).sum() * ratio)


def test_gradients_reach_the_student_only_and_only_from_kept_rows(rng):
    student = torch.tensor(rng.normal(size=(N * VIEWS, 7)), requires_grad=True)
    teacher = torch.tensor(rng.normal(size=(N * VIEWS, 7)), requires_grad=True)
    labels = torch.tensor(np.repeat(rng.integers(0, 7, N), VIEWS))
    transformed_kd(student, teacher, labels, ratio=0.0).sum().backward()
    wrong = (teacher.argmax(dim=1) != labels) | (torch.arange(N * VIEWS) % VIEWS == 0)
    assert teacher.grad is None
    assert student.grad[wrong].abs().max() == 0
    assert student.grad[~wrong].abs().sum() > 0 or bool(wrong.all())


def test_rows_that_are_no_groups_are_refused():
    with pytest.raises(ValueError, match="7 rows are not groups of 4 views"):
        view_similarity(torch.zeros(7, 3))
    with pytest.raises(ValueError, match="7 rows"):
        transformed_kd(torch.zeros(7, 3), torch.zeros(7, 3), torch.zeros(7, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"0\.\.1"):
        keep_best_ranked(torch.zeros(3, dtype=torch.int64), ratio=1.5)


@pytest.mark.parametrize("loss", [self_supervision, lambda own: similarity_transfer(own, own.detach().roll(1, 0))])
def test_a_projection_without_a_direction_sends_no_gradient_that_overflows(rng, loss):
    projections = torch.tensor(rng.normal(size=(N * VIEWS, 6)), dtype=torch.float16)
    projections[1] = 0
    values = loss(projections.requires_grad_())
    values.mean().backward()
    assert torch.isfinite(values).all() and torch.isfinite(projections.grad).all()
    assert (projections.grad[1] == 0).all() and (projections.grad[2] != 0).any()


def test_cosines_of_views_keep_their_digits_under_autocast(rng):
    projections = rng.normal(size=(N * VIEWS, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = view_similarity(torch.tensor(projections, dtype=torch.float32))
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), _similarity(projections), rtol=1e-4, atol=1e-6)
