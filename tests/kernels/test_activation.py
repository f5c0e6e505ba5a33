"""Losses on which neurons fire, against element-by-element loops in plain Python and numerical integration."""

import math

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K

MARGIN = torch.tensor([-0.3, -1.0, 0.0, -0.1], dtype=torch.float64)


def _overhaul(student, teacher):
    return K.partial_l2(student, teacher, MARGIN)


LOSSES = [_overhaul, K.activation_boundary]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def _pair(rng, shape=(3, 4, 3, 2)):
    return torch.tensor(rng.normal(size=shape)), torch.tensor(rng.normal(size=shape))


def test_partial_l2_equals_the_formula(rng):
    s, t = _pair(rng)
    expected = [0.0, 0.0, 0.0]
    for (n, c, i, j), value in np.ndenumerate(s.numpy()):
        target = max(t[n, c, i, j].item(), MARGIN[c].item())
        if not (value <= target <= 0):
            expected[n] += (value - target) ** 2
    np.testing.assert_allclose(_overhaul(s, t).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "student, teacher, expected",
    [(-2.0, -5.0, 0.0), (-0.2, -5.0, 0.09), (1.0, -5.0, 2.25), (-1.0, 2.0, 9.0), (3.0, 2.0, 1.0), (-0.4, -0.3, 0.0)],
)
def test_partial_l2_on_each_side_of_a_margin_of_minus_a_half(student, teacher, expected):
    margin = torch.tensor([-0.5])
    actual = K.partial_l2(torch.full((1, 1, 1, 1), student), torch.full((1, 1, 1, 1), teacher), margin)
    assert actual.item() == pytest.approx(expected)


def test_partial_l2_is_zero_at_the_margin_relu_of_the_teacher(rng):
    _, t = _pair(rng)
    assert _overhaul(torch.maximum(t, MARGIN.view(1, 4, 1, 1)), t).abs().max() == 0


def test_partial_l2_refuses_a_margin_of_another_width():
    with pytest.raises(ValueError, match=r"margin has shape \(3,\), expected \(2,\)"):
        K.partial_l2(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), torch.zeros(3))


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (0.5, 0.3), (-2.0, 1.0), (1.0, -3.0), (0.1, -5.0), (1.0, 6.0)])
def test_relu_margin_is_the_mean_of_the_negative_part_of_a_normal(scale, shift):
    sigma = abs(scale)
    x = np.linspace(min(0.0, shift) - 12 * sigma, 0.0, 400_001)
    density = np.exp(-0.5 * ((x - shift) / sigma) ** 2 + 0.5 * (max(0.0, shift) / sigma) ** 2)
    expected = np.trapezoid(x * density, x) / np.trapezoid(density, x)
    actual = K.relu_margin(torch.tensor([scale]), torch.tensor([shift]))
    assert actual.item() == pytest.approx(expected, rel=1e-5)


def test_relu_margin_of_channels_that_are_never_negative_or_never_positive_is_finite():
    margin = K.relu_margin(torch.tensor([0.0, 1e-3, 0.0, 1.0]), torch.tensor([5.0, 100.0, -5.0, -1e4]))
    assert torch.isfinite(margin).all() and (margin <= 0).all()
    torch.testing.assert_close(margin, torch.tensor([0.0, 0.0, -5.0, -1e4]).double(), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_activation_boundary_equals_the_formula(rng, margin):
    s, t = _pair(rng)
    expected = [0.0, 0.0, 0.0]
    for index, value in np.ndenumerate(s.numpy()):
        side = 1 if t[index] > 0 else -1
        expected[index[0]] += max(0.0, margin - side * value) ** 2
    np.testing.assert_allclose(K.activation_boundary(s, t, margin=margin).numpy(), expected, rtol=1e-12)


def test_activation_boundary_ignores_how_strongly_the_teacher_fires_and_ends_beyond_the_margin(rng):
    s, t = _pair(rng)
    strength = torch.tensor(rng.uniform(0.1, 10, size=t.shape))
    torch.testing.assert_close(K.activation_boundary(s, t * strength), K.activation_boundary(s, t))
    torch.testing.assert_close(K.activation_boundary(s, t.relu()), K.activation_boundary(s, t))
    assert K.activation_boundary(1.01 * t.sign(), t).abs().max() == 0
    assert K.activation_boundary(0.99 * t.sign(), t).min() > 0


def test_activation_boundary_refuses_a_margin_that_is_not_positive():
    with pytest.raises(ValueError, match="positive, got 0"):
        K.activation_boundary(torch.zeros(1, 1), torch.zeros(1, 1), margin=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_the_value_and_do_not_reach_the_teacher(rng, loss):
    s, t = (x.requires_grad_() for x in _pair(rng))
    assert torch.autograd.gradcheck(lambda x: loss(x, t), s)
    loss(s, t).sum().backward()
    assert t.grad is None and s.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_other_shapes_are_refused_and_half_precision_is_accumulated_in_float32(loss):
    with pytest.raises(ValueError, match="shapes differ"):
        loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 3, 3))
    values = loss(torch.full((1, 4, 2, 2), 300.0, dtype=torch.float16), torch.zeros(1, 4, 2, 2, dtype=torch.float16))
    assert values.dtype == torch.float32 and math.isfinite(values.item())
