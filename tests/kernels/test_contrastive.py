"""Contrastive losses against the formula over pairs, in float64."""

import math

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch.autograd import gradcheck


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def _tensor(values, *, grad=False):
    return torch.tensor(np.asarray(values), requires_grad=grad)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_equals_the_formula(rng, temperature):
    s, t = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    expected = []
    for i in range(5):
        scores = [math.exp(s[i] @ x / math.sqrt((s[i] @ s[i]) * (x @ x)) / temperature) for x in t]
        expected.append(-math.log(scores[i] / sum(scores)))
    actual = K.info_nce(_tensor(s), _tensor(t), temperature=temperature)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_info_nce_has_the_gradient_of_its_value_on_both_sides(rng):
    s, t = _tensor(rng.normal(size=(4, 3)), grad=True), _tensor(rng.normal(size=(4, 3)), grad=True)
    assert gradcheck(lambda a, b: K.info_nce(a, b, temperature=0.5), (s, t))
    K.info_nce(s, t).sum().backward()
    assert s.grad.abs().sum() > 0 and t.grad.abs().sum() > 0


def test_info_nce_is_log_batch_for_embeddings_that_tell_nothing_apart_and_near_zero_for_matching_ones():
    same = torch.ones(6, 4, dtype=torch.float64)
    assert K.info_nce(same, same).tolist() == pytest.approx([math.log(6)] * 6)
    apart = torch.eye(6, dtype=torch.float64)
    assert K.info_nce(apart, apart).tolist() == pytest.approx([math.log1p(5 * math.exp(-1 / 0.07))] * 6)
    assert K.info_nce(apart, apart.flip(0)).min() > 10


def test_info_nce_ignores_each_samples_scale_and_a_common_rotation_but_not_one_sides(rng):
    s, t = _tensor(rng.normal(size=(5, 4))), _tensor(rng.normal(size=(5, 4)))
    rotation = torch.linalg.qr(_tensor(rng.normal(size=(4, 4)))).Q
    scales = _tensor(rng.uniform(0.1, 10, size=(5, 1)))
    base = K.info_nce(s, t)
    torch.testing.assert_close(K.info_nce(scales * s @ rotation, t @ rotation), base)
    assert not torch.allclose(K.info_nce(s @ rotation, t), base)


def test_info_nce_teaches_nothing_in_a_batch_of_one_and_stays_finite_for_zeros(rng):
    s = _tensor(rng.normal(size=(1, 4)), grad=True)
    value = K.info_nce(s, _tensor(rng.normal(size=(1, 4))))
    value.sum().backward()
    assert value.tolist() == [0.0] and s.grad.abs().max() == 0
    dead = torch.zeros(3, 4, requires_grad=True)
    K.info_nce(dead, torch.randn(3, 4)).sum().backward()
    assert dead.grad.abs().max() == 0


def test_info_nce_keeps_full_precision_under_autocast_and_for_half(rng):
    s, t = (_tensor(rng.normal(size=(6, 32)).astype(np.float32)) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = K.info_nce(s, t)
    torch.testing.assert_close(mixed, K.info_nce(s, t))
    assert K.info_nce(s.half(), t.half()).dtype == torch.float32


def test_info_nce_refuses_other_shapes_and_cold_temperatures():
    with pytest.raises(ValueError, match="shapes differ"):
        K.info_nce(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="positive"):
        K.info_nce(torch.zeros(3, 2), torch.zeros(3, 2), temperature=0.0)


def _crd_by_hand(similarity, normaliser, size):
    """The paper's loss pair by pair, as written: probabilities of having been drawn from the joint distribution."""
    losses = []
    for own, *others in similarity:
        noise = len(others) / size
        critic = math.exp(own) / normaliser
        loss = -math.log(critic / (critic + noise))
        for other in others:
            loss -= math.log(noise / (math.exp(other) / normaliser + noise))
        losses.append(loss)
    return losses


def test_bank_similarity_equals_products_of_the_rows_asked_for(rng):
    embedding, bank = rng.normal(size=(3, 4)), rng.normal(size=(6, 4))
    rows = np.array([[0, 5, 2], [1, 1, 4], [3, 0, 5]])
    expected = [[embedding[i] @ bank[row] / 0.5 for row in rows[i]] for i in range(3)]
    actual = K.bank_similarity(_tensor(embedding), _tensor(bank), torch.tensor(rows), temperature=0.5)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_crd_equals_the_paper_s_formula_pair_by_pair(rng):
    similarity, size = rng.normal(size=(5, 8)) * 3, 20
    normaliser = size * sum(math.exp(value) for value in similarity.flatten()) / similarity.size
    log_normaliser = K.crd_log_normaliser(_tensor(similarity), size)
    assert log_normaliser.item() == pytest.approx(math.log(normaliser), rel=1e-12)
    actual = K.crd(_tensor(similarity), log_normaliser, size)
    np.testing.assert_allclose(actual.numpy(), _crd_by_hand(similarity, normaliser, size), rtol=1e-10)


def test_crd_has_the_gradient_of_the_paper_s_formula_on_the_embedding_and_none_on_bank_and_normaliser(rng):
    embedding, bank = rng.normal(size=(3, 4)), _tensor(rng.normal(size=(6, 4)), grad=True)
    rows, normaliser = torch.tensor([[0, 5, 2], [1, 3, 4], [3, 0, 5]]), torch.tensor(1.3).double().requires_grad_()

    def by_hand(values):
        similarity = [[values[i] @ bank.detach().numpy()[row] / 0.5 for row in rows[i]] for i in range(3)]
        return sum(_crd_by_hand(similarity, math.exp(1.3), 6))

    expected = np.zeros_like(embedding)
    for index in np.ndindex(embedding.shape):
        shift = np.zeros_like(embedding)
        shift[index] = 1e-6
        expected[index] = (by_hand(embedding + shift) - by_hand(embedding - shift)) / 2e-6
    student = _tensor(embedding, grad=True)
    K.crd(K.bank_similarity(student, bank, rows, temperature=0.5), normaliser, 6).sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-5, atol=1e-8)
    assert bank.grad is None and normaliser.grad is None


def test_crd_rewards_an_own_row_that_is_closer_and_negatives_that_are_farther(rng):
    similarity = _tensor(rng.normal(size=(4, 6)))
    base = K.crd(similarity, torch.tensor(0.5), 10)
    closer, farther = similarity.clone(), similarity.clone()
    closer[:, 0] += 1
    farther[:, 1:] -= 1
    assert (K.crd(closer, torch.tensor(0.5), 10) < base).all()
    assert (K.crd(farther, torch.tensor(0.5), 10) < base).all()


def test_crd_stays_finite_for_extreme_similarities_in_float32():
    similarity = torch.tensor([[-500.0, 500.0], [500.0, -500.0]])
    values = K.crd(similarity, torch.tensor(0.0), 2)
    assert torch.isfinite(values).all() and values[1] == 0 and values[0] > 900
    assert torch.isfinite(K.crd_log_normaliser(similarity, 2))


def test_crd_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match="do not go together"):
        K.bank_similarity(torch.zeros(2, 3), torch.zeros(5, 4), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="do not go together"):
        K.bank_similarity(torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="positive"):
        K.bank_similarity(torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2, 2).long(), temperature=0.0)
    with pytest.raises(ValueError, match="no negative"):
        K.crd(torch.zeros(2, 1), torch.tensor(0.0), 5)


def test_crd_refuses_what_is_no_similarity_and_a_bank_without_rows():
    good, normaliser = torch.zeros(2, 3), torch.tensor(0.0)
    for bad in (good[:0], good[0], good[None]):
        with pytest.raises(ValueError, match=r"similarity has shape \(.*\), expected \[B, 1 \+ m\]"):
            K.crd(bad, normaliser, 5)
    with pytest.raises(TypeError, match=r"similarity has dtype torch\.int64, expected floating point"):
        K.crd(good.long(), normaliser, 5)
    with pytest.raises(TypeError, match=r"log_normaliser has dtype torch\.int64, expected floating point"):
        K.crd(good, normaliser.long(), 5)
    for bank_size in (0, -1):
        with pytest.raises(ValueError, match=f"bank_size must be at least 1, got {bank_size}"):
            K.crd(good, normaliser, bank_size)
        with pytest.raises(ValueError, match=f"bank_size must be at least 1, got {bank_size}"):
            K.crd_log_normaliser(good, bank_size)
    with pytest.raises(ValueError, match=r"similarity has shape \(0, 3\)"):
        K.crd_log_normaliser(good[:0], 5)


@pytest.mark.parametrize("batch, rows, width", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_a_bank_or_a_batch_without_elements_is_refused(batch, rows, width):
    with pytest.raises(ValueError, match=rf"nothing to compare: embedding \({batch}, {width}\), bank \({rows}"):
        K.bank_similarity(torch.zeros(batch, width), torch.zeros(rows, width), torch.zeros(batch, 2, dtype=torch.int64))


def test_info_nce_refuses_embeddings_without_width():
    with pytest.raises(ValueError, match=r"student_embedding has shape \(2, 0\), nothing to compare"):
        K.info_nce(torch.zeros(2, 0), torch.zeros(2, 0))
