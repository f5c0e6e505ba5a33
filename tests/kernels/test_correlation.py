"""Losses on correlations of predictions against numpy's own correlation and loops over pairs, in float64."""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def _softmax(z, temperature):
    e = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    return e / e.sum(axis=1, keepdims=True)


def _logits(rng, rows=6, classes=5):
    return rng.normal(size=(rows, classes)) * 2, rng.normal(size=(rows, classes)) * 2


def _tensors(*arrays):
    return tuple(torch.tensor(array) for array in arrays)


@pytest.mark.parametrize("beta, gamma, temperature", [(2.0, 2.0, 4.0), (1.0, 0.0, 1.0), (0.0, 3.0, 2.0)])
def test_dist_equals_the_mean_of_pearson_distances_along_rows_and_columns(rng, beta, gamma, temperature):
    s, t = _logits(rng)
    q, p = _softmax(s, temperature), _softmax(t, temperature)
    between = np.mean([1 - np.corrcoef(q[i], p[i])[0, 1] for i in range(6)])
    within = np.mean([1 - np.corrcoef(q[:, k], p[:, k])[0, 1] for k in range(5)])
    actual = K.dist(*_tensors(s, t), beta=beta, gamma=gamma, temperature=temperature)
    assert actual.shape == (6,)
    assert actual.mean().item() == pytest.approx(temperature**2 * (beta * between + gamma * within), rel=1e-10)


def test_dist_between_classes_is_each_samples_own(rng):
    s, t = _tensors(*_logits(rng))
    one, other = (K.dist(x, t, gamma=0.0) for x in (s, torch.cat([s[:1] + torch.randn(1, 5), s[1:]])))
    assert one[0] != other[0]
    torch.testing.assert_close(one[1:], other[1:])


def test_dist_vanishes_at_the_teacher_and_is_twice_the_weights_at_its_opposite():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.3, 0.6, 0.1]], dtype=torch.float64)
    opposite = 2 / 3 - p
    values = [K.dist(x.log(), p.log(), beta=1.0, gamma=5.0, temperature=1.0).mean().item() for x in (p, opposite)]
    assert values == pytest.approx([0.0, 12.0], abs=1e-12)


def test_dist_has_no_gradient_where_nothing_varies():
    t = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.5]])
    uniform = torch.full((2, 3), 7.7, requires_grad=True)
    values = K.dist(uniform, t, temperature=1.0)
    values.sum().backward()
    assert values.tolist() == [4.0, 4.0]
    assert uniform.grad.abs().sum() == 0
    alone = torch.tensor([[0.3, 1.0, 2.0]], requires_grad=True)
    K.dist(alone, t[:1], beta=0.0).sum().backward()
    assert alone.grad.abs().sum() == 0


def test_dist_sends_no_gradient_to_the_teacher_and_its_own_is_right(rng):
    s, t = _logits(rng)
    teacher = torch.tensor(t, requires_grad=True)
    student = torch.tensor(s, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: K.dist(x, teacher, temperature=2.0), student)
    K.dist(student, teacher).sum().backward()
    assert teacher.grad is None


def test_dist_ignores_a_constant_added_to_a_row_but_not_the_temperature(rng):
    s, t = _tensors(*_logits(rng))
    torch.testing.assert_close(K.dist(s + 3.0, t), K.dist(s, t))
    assert not torch.allclose(K.dist(s, t, temperature=2.0) / 4, K.dist(s, t) / 16)


def test_dist_takes_half_precision_and_sure_networks():
    s = torch.tensor([[6e4, -6e4, 0.0], [0.0, 6e4, -6e4]], dtype=torch.float16, requires_grad=True)
    t = torch.tensor([[0.0, 6e4, 0.0], [6e4, 0.0, 0.0]], dtype=torch.float16)
    values = K.dist(s, t)
    values.sum().backward()
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all() and torch.isfinite(s.grad).all()


def test_correlations_refuse_misfits():
    with pytest.raises(ValueError, match="shapes differ"):
        K.dist(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"expected \[B, K\]"):
        K.dist(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="positive"):
        K.dist(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0)


@pytest.mark.parametrize("loss", [K.dist, K.standardized_kl])
def test_standardised_losses_do_not_hide_a_nan(loss):
    s = torch.tensor([[1.0, float("nan"), 0.0], [1.0, 2.0, 3.0]])
    assert loss(s, torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]]))[0].isnan()


def _levels(s, t, temperature):
    """Loops over pairs of samples and pairs of classes; returns the losses of the three levels."""
    q, p = _softmax(s, temperature), _softmax(t, temperature)
    rows, classes = q.shape
    instance = temperature**2 * np.mean(
        [sum(p[b, k] * np.log(p[b, k] / q[b, k]) for k in range(classes)) for b in range(rows)]
    )
    samples = sum((q[a] @ q[b] - p[a] @ p[b]) ** 2 for a in range(rows) for b in range(rows)) / rows
    columns = [
        (sum(q[b, i] * q[b, j] for b in range(rows)) - sum(p[b, i] * p[b, j] for b in range(rows))) ** 2
        for i in range(classes)
        for j in range(classes)
    ]
    return instance, samples, sum(columns) / classes


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_correlation_levels_equal_loops_over_pairs(rng, temperature):
    s, t = _logits(rng)
    _, samples, classes = _levels(s, t, temperature)
    for loss, expected in ((K.batch_correlation, samples), (K.class_correlation, classes)):
        actual = loss(*_tensors(s, t), temperature=temperature)
        assert actual.shape == (6,)
        assert actual.mean().item() == pytest.approx(expected, rel=1e-10)


def test_mlkd_adds_three_levels_over_its_temperatures(rng):
    s, t = _logits(rng)
    expected = sum(sum(_levels(s, t, temperature)) for temperature in (2.0, 5.0))
    assert K.mlkd(*_tensors(s, t), temperatures=(2.0, 5.0)).mean().item() == pytest.approx(expected, rel=1e-10)
    default = sum(sum(_levels(s, t, temperature)) for temperature in (2.0, 3.0, 4.0, 5.0, 6.0))
    assert K.mlkd(*_tensors(s, t)).mean().item() == pytest.approx(default, rel=1e-10)


def test_batch_level_ignores_a_permutation_of_classes_and_class_level_one_of_samples(rng):
    s, t = _tensors(*_logits(rng))
    classes, samples = torch.tensor([1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 5, 0])
    torch.testing.assert_close(K.batch_correlation(s[:, classes], t), K.batch_correlation(s, t))
    torch.testing.assert_close(K.class_correlation(s[samples], t).mean(), K.class_correlation(s, t).mean())
    assert not torch.allclose(K.batch_correlation(s[samples], t).mean(), K.batch_correlation(s, t).mean())
    assert not torch.allclose(K.class_correlation(s[:, classes], t).mean(), K.class_correlation(s, t).mean())


def test_class_level_of_a_batch_repeated_is_four_times_as_large(rng):
    s, t = _tensors(*_logits(rng))
    twice = K.class_correlation(s.repeat(2, 1), t.repeat(2, 1)).mean()
    torch.testing.assert_close(twice, 4 * K.class_correlation(s, t).mean())


@pytest.mark.parametrize("loss", [K.batch_correlation, K.class_correlation, K.mlkd])
def test_correlation_levels_vanish_at_the_teacher_and_have_the_gradient_of_their_value(rng, loss):
    s, t = _logits(rng, rows=3, classes=4)
    teacher = torch.tensor(t, requires_grad=True)
    student = torch.tensor(s, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)
    loss(student, teacher).sum().backward()
    assert teacher.grad is None
    assert loss(teacher.detach(), teacher).abs().max() < 1e-12


def test_class_level_in_float32_keeps_the_digits_of_a_student_close_to_its_teacher(rng):
    t = torch.tensor(rng.normal(size=(32, 10)))
    s = t + 1e-4 * torch.tensor(rng.normal(size=(32, 10)))
    exact = K.class_correlation(s, t, temperature=1.0)
    single = K.class_correlation(s.float(), t.float(), temperature=1.0).double()
    assert (single - exact).abs().max() < 0.02 * exact.abs().max()


def test_correlation_levels_stay_full_precision_under_autocast(rng):
    s, t = (x.float() for x in _tensors(*_logits(rng)))
    for loss in (K.batch_correlation, K.class_correlation):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = loss(s, t)
        torch.testing.assert_close(under, loss(s, t))


def test_mlkd_refuses_no_temperature_and_takes_a_batch_of_one():
    with pytest.raises(ValueError, match="at least one temperature"):
        K.mlkd(torch.zeros(2, 3), torch.zeros(2, 3), temperatures=())
    with pytest.raises(ValueError, match="positive"):
        K.mlkd(torch.zeros(2, 3), torch.zeros(2, 3), temperatures=(1.0, 0.0))
    one = K.mlkd(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0]]))
    assert torch.isfinite(one).all() and one.item() > 0
