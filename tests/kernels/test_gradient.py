"""The distance of gradient directions against the formula position by position, in float64."""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch.autograd import gradcheck


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def _tensor(values, *, grad=False):
    return torch.tensor(np.asarray(values), requires_grad=grad)


def _by_hand(student, teacher):
    total, count = 0.0, 0
    for g_s, g_t in zip(student.reshape(-1, student.shape[2]), teacher.reshape(-1, teacher.shape[2]), strict=True):
        if np.sqrt((g_t**2).sum()) == 0:
            continue
        count += 1
        length = np.sqrt((g_s**2).sum())
        direction = g_s / length if length else 0 * g_s
        total += ((direction - g_t / np.sqrt((g_t**2).sum())) ** 2).sum()
    return total / max(1, count)


def test_gradient_match_equals_the_mean_over_positions_with_a_teacher_gradient(rng):
    s, t = rng.normal(size=(3, 5, 4)) * 1e-6, rng.normal(size=(3, 5, 4)) * 1e3
    t[0, 2:] = 0
    t[1, :] = 0
    s[2, 3] = 0
    values = K.gradient_match(_tensor(s), _tensor(t))
    assert values.shape == (3,)
    assert values.mean().item() == pytest.approx(_by_hand(s, t), rel=1e-12)
    assert values[1] == 0


def test_gradient_match_lies_between_0_for_equal_and_4_for_opposite_directions_whatever_their_lengths(rng):
    t = rng.normal(size=(2, 3, 4))
    scale = rng.uniform(0.01, 100, size=(2, 3, 1))
    assert K.gradient_match(_tensor(scale * t), _tensor(t)).abs().max() < 1e-24
    assert K.gradient_match(_tensor(-scale * t), _tensor(t)).tolist() == pytest.approx([4.0, 4.0])
    s = rng.normal(size=(2, 3, 4))
    base = K.gradient_match(_tensor(s), _tensor(t))
    assert (base >= 0).all() and (base <= 4).all()
    torch.testing.assert_close(K.gradient_match(_tensor(scale * s), _tensor(t / scale)), base)


def test_gradient_match_has_the_gradient_of_its_value_on_the_student_alone(rng):
    s, t = _tensor(rng.normal(size=(2, 3, 4)), grad=True), _tensor(rng.normal(size=(2, 3, 4)), grad=True)
    assert gradcheck(lambda x: K.gradient_match(x, t.detach()), (s,))
    K.gradient_match(s, t).sum().backward()
    assert s.grad.abs().sum() > 0 and t.grad is None


def test_gradient_match_is_defined_where_either_side_has_no_gradient(rng):
    s = torch.zeros(2, 3, 4, requires_grad=True)
    values = K.gradient_match(s, torch.randn(2, 3, 4))
    values.sum().backward()
    torch.testing.assert_close(values, torch.full((2,), 3 * 2 / 6))
    assert s.grad.abs().max() == 0
    assert K.gradient_match(torch.randn(2, 3, 4), torch.zeros(2, 3, 4)).tolist() == [0.0, 0.0]


def test_gradient_match_refuses_other_shapes():
    with pytest.raises(ValueError, match="shapes differ"):
        K.gradient_match(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"\[B, N, D\]"):
        K.gradient_match(torch.zeros(2, 4), torch.zeros(2, 4))
