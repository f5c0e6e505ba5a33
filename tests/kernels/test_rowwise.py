"""Losses on rows of logits against the papers' sums, written with loops over classes in numpy and float64."""

import math

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def _softmax(row, temperature=1.0):
    e = np.exp((row - row.max()) / temperature)
    return e / e.sum()


def _kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def _logits(rng, rows=6, classes=5, scale=2.0):
    return rng.normal(size=(rows, classes)) * scale, rng.normal(size=(rows, classes)) * scale


def _tensors(*arrays):
    return tuple(torch.tensor(array) for array in arrays)


def _gradcheck(loss, student):
    return torch.autograd.gradcheck(loss, torch.tensor(student, requires_grad=True))


@pytest.fixture
def labels(rng):
    return torch.tensor([0, 4, 2, 1, 3, 4])


@pytest.mark.parametrize("alpha, beta, temperature", [(1.0, 8.0, 4.0), (2.0, 0.0, 1.0), (0.0, 3.0, 0.5)])
def test_dkd_equals_the_papers_sum_of_the_pair_and_the_rest(rng, labels, alpha, beta, temperature):
    s, t = _logits(rng)
    expected = []
    for row_s, row_t, y in zip(s, t, labels.tolist(), strict=True):
        p, q = _softmax(row_t, temperature), _softmax(row_s, temperature)
        pair = _kl((p[y], 1 - p[y]), (q[y], 1 - q[y]))
        rest = _kl(np.delete(p, y) / (1 - p[y]), np.delete(q, y) / (1 - q[y]))
        expected.append(temperature**2 * (alpha * pair + beta * rest))
    actual = K.dkd(*_tensors(s, t), labels, alpha=alpha, beta=beta, temperature=temperature)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_dkd_is_kd_when_the_rest_weighs_what_the_teacher_leaves_it(rng, labels):
    s, t = _tensors(*_logits(rng))
    left = 1 - torch.softmax(t / 4, dim=1)[torch.arange(6), labels]
    pair, rest = (K.dkd(s, t, labels, alpha=a, beta=1.0 - a, temperature=4.0) for a in (1.0, 0.0))
    torch.testing.assert_close(pair + left * rest, K.kd_kl(s, t, temperature=4.0))


def test_dkd_rest_ignores_the_labels_own_logit_and_the_pair_does_not(rng, labels):
    s, t = _tensors(*_logits(rng))
    moved = s.scatter_add(1, labels[:, None], torch.full((6, 1), 2.0, dtype=s.dtype))
    for alpha, beta, is_same in ((0.0, 1.0, True), (1.0, 0.0, False)):
        one, other = (K.dkd(x, t, labels, alpha=alpha, beta=beta) for x in (s, moved))
        assert torch.allclose(one, other) == is_same


def test_dkd_refuses_fewer_than_three_classes_and_misfits():
    three, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="K >= 3"):
        K.dkd(torch.zeros(2, 2), torch.zeros(2, 2), labels)
    with pytest.raises(ValueError, match="labels have shape"):
        K.dkd(three, three, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="shapes differ"):
        K.dkd(three, torch.zeros(2, 4), labels)
    with pytest.raises(ValueError, match="positive"):
        K.dkd(three, three, labels, temperature=0.0)


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("loss", [K.dkd, K.nkd, K.kd_ce])
def test_labels_out_of_range_are_an_error_on_the_cpu(loss, label):
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2"):
        loss(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([label]))


@pytest.mark.parametrize("gamma, temperature", [(1.5, 1.0), (0.0, 1.0), (2.0, 3.0)])
def test_nkd_equals_the_papers_two_cross_entropies(rng, labels, gamma, temperature):
    s, t = _logits(rng)
    expected = []
    for row_s, row_t, y in zip(s, t, labels.tolist(), strict=True):
        p, q = _softmax(row_t), _softmax(row_s)
        p_soft, q_soft = (np.delete(_softmax(row, temperature), y) for row in (row_t, row_s))
        p_rest, q_rest = p_soft / p_soft.sum(), q_soft / q_soft.sum()
        rest = -sum(a * math.log(b) for a, b in zip(p_rest, q_rest, strict=True))
        expected.append(-p[y] * math.log(q[y]) + gamma * temperature**2 * rest)
    actual = K.nkd(*_tensors(s, t), labels, gamma=gamma, temperature=temperature)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_nkd_pulls_the_rest_to_the_teacher_and_the_label_up(rng, labels):
    t = torch.tensor(_logits(rng)[1])
    s = t.clone().requires_grad_(True)
    K.nkd(s, t, labels).sum().backward()
    at_label = s.grad.gather(1, labels[:, None])
    assert (at_label < 0).all()
    p = torch.softmax(t, dim=1).gather(1, labels[:, None])
    torch.testing.assert_close(at_label, p * (p - 1))
    centred = s.grad - p * torch.softmax(t, dim=1)  # what the first part sends to the other classes
    torch.testing.assert_close(centred.scatter(1, labels[:, None], 0.0), torch.zeros_like(t), atol=1e-12, rtol=0)


def test_nkd_with_two_classes_is_the_weighted_cross_entropy_alone(rng):
    s, t = _tensors(*_logits(rng, classes=2))
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    p = torch.softmax(t, dim=1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(K.nkd(s, t, labels), p * torch.nn.functional.cross_entropy(s, labels, reduction="none"))
    with pytest.raises(ValueError, match="K >= 2"):
        K.nkd(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))


LABELLED = {"dkd": K.dkd, "nkd": K.nkd, "kd_ce": K.kd_ce}


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_losses_have_the_gradient_of_their_value_and_send_the_teacher_none(rng, labels, name):
    s, t = _logits(rng)
    teacher = torch.tensor(t, requires_grad=True)
    assert _gradcheck(lambda x: LABELLED[name](x, teacher, labels, temperature=2.0), s)
    LABELLED[name](torch.tensor(s, requires_grad=True), teacher, labels).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_labelled_losses_stay_finite_for_huge_logits_of_a_sure_network(name, dtype):
    s = torch.tensor([[6e4, -6e4, 0.0, 1.0], [-6e4, 6e4, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    t = torch.tensor([[-6e4, 0.0, 6e4, 0.0], [0.0, 6e4, -6e4, 0.0]], dtype=dtype)
    values = LABELLED[name](s, t, torch.tensor([0, 1]))
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all() and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_losses_ignore_a_constant_added_to_a_row_and_follow_a_permutation_of_classes(rng, labels, name):
    s, t = _tensors(*_logits(rng))
    base = LABELLED[name](s, t, labels)
    torch.testing.assert_close(LABELLED[name](s + 7.0, t - 3.0, labels), base)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(LABELLED[name](s[:, order], t[:, order], order.argsort()[labels]), base)
    assert not torch.allclose(LABELLED[name](2 * s, t, labels), base)


def test_dkd_vanishes_at_the_teacher(rng, labels):
    t = torch.tensor(_logits(rng)[1])
    assert K.dkd(t, t, labels).abs().max() < 1e-12


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_standardized_kl_equals_kl_between_scores(rng, temperature):
    s, t = _logits(rng, scale=3.0)
    expected = []
    for row_s, row_t in zip(s, t, strict=True):
        scores = [
            [(v - np.mean(row)) / np.sqrt(np.mean((row - np.mean(row)) ** 2)) for v in row] for row in (row_s, row_t)
        ]
        q, p = (_softmax(np.array(score), temperature) for score in scores)
        expected.append(temperature**2 * _kl(p, q))
    actual = K.standardized_kl(*_tensors(s, t), temperature=temperature)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_standardized_kl_ignores_offset_and_positive_scale_of_either_side_but_not_sign(rng):
    s, t = _tensors(*_logits(rng))
    base = K.standardized_kl(s, t)
    for one, other in ((5 * s + 3, t), (s, 0.01 * t - 7), (1e-9 * s, 1e9 * t)):
        torch.testing.assert_close(K.standardized_kl(one, other), base)
    assert K.standardized_kl(2 * t + 1, t).abs().max() < 1e-12
    assert not torch.allclose(K.standardized_kl(-s, t), base)


def test_standardized_kl_gradient_is_that_of_its_value_and_none_for_the_teacher(rng):
    s, t = _logits(rng)
    teacher = torch.tensor(t, requires_grad=True)
    assert _gradcheck(lambda x: K.standardized_kl(x, teacher), s)
    K.standardized_kl(torch.tensor(s, requires_grad=True), teacher).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("offset", [0.0, 0.1, 1e4])
def test_standardized_kl_of_a_constant_row_is_finite_without_gradient(offset):
    s = torch.full((2, 7), offset, requires_grad=True)
    values = K.standardized_kl(s, torch.arange(14.0).view(2, 7))
    values.sum().backward()
    assert torch.isfinite(values).all() and (values > 0).all()
    assert s.grad.abs().sum() == 0


def test_standardized_kl_refuses_misfits():
    with pytest.raises(ValueError, match="shapes differ"):
        K.standardized_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="positive"):
        K.standardized_kl(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_equals_the_mean_over_channels_of_kl_between_spatial_softmaxes(rng, temperature):
    s, t = rng.normal(size=(3, 4, 2, 5)) * 3, rng.normal(size=(3, 4, 2, 5)) * 3
    expected = []
    for map_s, map_t in zip(s, t, strict=True):
        per_channel = [
            _kl(_softmax(map_t[c].ravel(), temperature), _softmax(map_s[c].ravel(), temperature)) for c in range(4)
        ]
        expected.append(temperature**2 / 4 * sum(per_channel))
    np.testing.assert_allclose(K.cwd(*_tensors(s, t), temperature=temperature).numpy(), expected, rtol=1e-10)


def test_cwd_ignores_a_channels_offset_but_not_its_place_or_scale(rng):
    s, t = torch.tensor(rng.normal(size=(2, 3, 4, 4))), torch.tensor(rng.normal(size=(2, 3, 4, 4)))
    base = K.cwd(s, t)
    torch.testing.assert_close(K.cwd(s + torch.tensor([1.0, -2.0, 30.0]).view(3, 1, 1), t), base)
    torch.testing.assert_close(K.cwd(s.flip(3), t.flip(3)), base)
    for other in (s.flip(3), s.roll(1, 1), 2 * s):
        assert not torch.allclose(K.cwd(other, t), base)


def test_cwd_gradient_is_that_of_its_value_and_vanishes_at_the_teacher(rng):
    s, t = rng.normal(size=(2, 3, 2, 2)), torch.tensor(rng.normal(size=(2, 3, 2, 2)), requires_grad=True)
    assert _gradcheck(lambda x: K.cwd(x, t), s)
    at_teacher = t.detach().clone().requires_grad_(True)
    values = K.cwd(at_teacher, t)
    values.sum().backward()
    assert values.abs().max() < 1e-12 and at_teacher.grad.abs().max() < 1e-12
    assert t.grad is None


def test_cwd_refuses_vectors_and_misfits_and_takes_half_precision():
    with pytest.raises(ValueError, match="expected"):
        K.cwd(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="shapes differ"):
        K.cwd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match="positive"):
        K.cwd(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), temperature=-1.0)
    values = K.cwd(torch.full((1, 2, 4), 6e4, dtype=torch.float16), torch.eye(4)[None, :2].half() * 6e4)
    assert values.dtype == torch.float32 and torch.isfinite(values).all()


@pytest.mark.parametrize("raw, least, span", [(1.0, 1.0, 20.0), (-0.4, 2.0, 3.0), (0.0, 4.0, 0.0)])
def test_curriculum_kl_is_kd_at_the_temperature_the_sigmoid_gives_whatever_the_scale(rng, raw, least, span):
    s, t = _tensors(*_logits(rng))
    temperature = least + span / (1 + math.exp(-raw))
    for scale in (-1.0, 0.0, 0.3):
        theta = torch.tensor(raw, dtype=torch.float64)
        actual = K.curriculum_kl(s, t, theta, gradient_scale=scale, least=least, span=span)
        torch.testing.assert_close(actual, K.kd_kl(s, t, temperature=temperature))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.25])
def test_curriculum_kl_scales_the_gradient_of_the_temperature_and_of_nothing_else(rng, scale):
    s, t = _logits(rng)
    student, theta = torch.tensor(s, requires_grad=True), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(t, requires_grad=True)
    K.curriculum_kl(student, teacher, theta, gradient_scale=scale).sum().backward()

    def loss(raw):
        temperature = 1 + 20 / (1 + math.exp(-raw))
        return K.kd_kl(*_tensors(s, t), temperature=temperature).sum().item()

    assert theta.grad.item() == pytest.approx(scale * (loss(0.3 + 1e-5) - loss(0.3 - 1e-5)) / 2e-5, rel=1e-6)
    plain = torch.tensor(s, requires_grad=True)
    K.kd_kl(plain, teacher, temperature=1 + 20 / (1 + math.exp(-0.3))).sum().backward()
    torch.testing.assert_close(student.grad, plain.grad)
    assert teacher.grad is None


def test_curriculum_kl_gradient_at_scale_one_is_that_of_its_value(rng):
    s, t = _logits(rng)
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    student, teacher = torch.tensor(s, requires_grad=True), torch.tensor(t)
    assert torch.autograd.gradcheck(
        lambda x, raw: K.curriculum_kl(x, teacher, raw, gradient_scale=1.0), (student, theta)
    )


def test_curriculum_kl_refuses_misfits():
    two, theta = torch.zeros(2, 3), torch.ones(())
    with pytest.raises(ValueError, match="expected a scalar"):
        K.curriculum_kl(two, two, torch.ones(2), gradient_scale=-1.0)
    with pytest.raises(ValueError, match="shapes differ"):
        K.curriculum_kl(two, torch.zeros(2, 4), theta, gradient_scale=-1.0)
    for bounds in ({"least": 0.0}, {"span": -1.0}):
        with pytest.raises(ValueError, match="least must be positive"):
            K.curriculum_kl(two, two, theta, gradient_scale=-1.0, **bounds)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_branch_kl_and_its_gradient_on_either_side_equal_the_sums_over_classes(rng, temperature):
    b, z = _logits(rng)
    values, of_branch, of_trunk = [], [], []
    for row_b, row_z in zip(b, z, strict=True):
        p, q = _softmax(row_z, temperature), _softmax(row_b, temperature)
        kl = _kl(p, q)
        values.append(temperature**2 * kl)
        of_branch.append([temperature * (q[c] - p[c]) for c in range(len(p))])
        of_trunk.append([temperature * p[c] * (math.log(p[c] / q[c]) - kl) for c in range(len(p))])
    branch, trunk = (tensor.requires_grad_() for tensor in _tensors(b, z))
    actual = K.branch_kl(branch, trunk, temperature=temperature)
    actual.sum().backward()
    np.testing.assert_allclose(actual.detach().numpy(), values, rtol=1e-10)
    np.testing.assert_allclose(branch.grad.numpy(), of_branch, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(trunk.grad.numpy(), of_trunk, rtol=1e-8, atol=1e-12)


def test_kd_kl_moves_the_student_alone(rng):
    s, t = (tensor.requires_grad_() for tensor in _tensors(*_logits(rng)))
    K.kd_kl(s, t).sum().backward()
    assert t.grad is None and s.grad.abs().sum() > 0


def test_branch_kl_refuses_other_shapes_and_cold_temperatures():
    with pytest.raises(ValueError, match="shapes differ"):
        K.branch_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="positive"):
        K.branch_kl(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0)


@pytest.mark.parametrize("name", ["kd_kl", "branch_kl", "cwd"])
@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0)])
def test_tensors_without_elements_are_refused_by_name(name, shape):
    with pytest.raises(ValueError, match=r"(student|branch)_\w+ has shape \(2, \d, \d\), nothing to compare"):
        getattr(K, name)(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("name", ["kd_kl", "branch_kl", "standardized_kl", "info_nce"])
def test_a_temperature_without_end_or_one_that_would_not_be_learned_is_refused(name):
    rows = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="temperature must be positive and finite, got inf"):
        getattr(K, name)(rows, rows, temperature=float("inf"))
    with pytest.raises(TypeError, match="temperature is a tensor"):
        getattr(K, name)(rows, rows, temperature=torch.nn.Parameter(torch.tensor(2.0)))
