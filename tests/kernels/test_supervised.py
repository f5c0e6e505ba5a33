"""Losses against labels of pixels and real values: loops in float64, torch.distributions, and sampling."""

import math

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch.distributions import Normal, kl_divergence

IGNORED = 255


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def _gaussians(rng, rows=5, targets=3):
    return torch.tensor(rng.normal(size=(rows, 2 * targets)))


def _normal(outputs):
    means, log_variances = outputs.chunk(2, dim=1)
    return Normal(means, (log_variances / 2).exp())


def test_pixel_cross_entropy_averages_over_the_counted_pixels_of_the_batch(rng):
    logits, labels = rng.normal(size=(3, 4, 2, 5)), rng.integers(0, 4, (3, 2, 5))
    labels[0, :, 2:] = IGNORED
    labels[2] = IGNORED
    values = []
    for image, row, column in np.ndindex(labels.shape):
        if labels[image, row, column] != IGNORED:
            scores = np.exp(logits[image, :, row, column])
            values.append(-math.log(scores[labels[image, row, column]] / scores.sum()))
    found = K.pixel_cross_entropy(torch.tensor(logits), torch.tensor(labels))
    assert found.shape == (3,)
    assert found.mean().item() == pytest.approx(np.mean(values), rel=1e-12)
    assert found[2] == 0


def test_ignored_pixels_never_touch_the_loss_nor_its_gradient(rng):
    labels = torch.tensor(rng.integers(0, 3, (2, 4, 4)))
    labels[:, :2] = IGNORED
    clean = torch.tensor(rng.normal(size=(2, 3, 4, 4)), requires_grad=True)
    poisoned = clean.detach().clone()
    poisoned[:, :, :2] = 1e4
    poisoned.requires_grad_()
    one, other = (K.pixel_cross_entropy(logits, labels).mean() for logits in (clean, poisoned))
    assert one.item() == other.item()
    other.backward()
    assert poisoned.grad[:, :, :2].abs().max() == 0
    assert poisoned.grad[:, :, 2:].abs().max() > 0


def test_a_batch_without_a_counted_pixel_costs_nothing():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = K.pixel_cross_entropy(logits, torch.full((2, 4, 4), IGNORED)).mean()
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().max() == 0


def test_kd_on_maps_is_the_mean_over_pixels_of_kd_on_rows(rng):
    student, teacher = torch.tensor(rng.normal(size=(2, 3, 5, 4, 2)))
    rows = [[K.kd_kl(student[:, :, y, x], teacher[:, :, y, x], temperature=3.0) for x in range(2)] for y in range(4)]
    expected = torch.stack([value for row in rows for value in row]).mean(dim=0)
    torch.testing.assert_close(K.kd_kl(student, teacher, temperature=3.0), expected)


def test_gaussian_nll_is_torchs_log_density_without_its_constant(rng):
    outputs, targets = _gaussians(rng), torch.tensor(rng.normal(size=(5, 3)))
    expected = -_normal(outputs).log_prob(targets).sum(dim=1) - 3 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(K.gaussian_nll(outputs, targets), expected)


def test_gaussian_nll_is_least_at_the_error_it_states():
    """For one error e the best variance is e squared."""
    log_variances = torch.linspace(-4, 4, 801, dtype=torch.float64)
    outputs = torch.stack([torch.full_like(log_variances, 0.5), log_variances], dim=1)
    values = K.gaussian_nll(outputs, torch.full((801, 1), 2.0, dtype=torch.float64))
    assert log_variances[values.argmin()].item() == pytest.approx(math.log(1.5**2), abs=0.01)


def test_gaussian_kl_is_torchs_divergence_from_the_teacher(rng):
    student, teacher = _gaussians(rng), _gaussians(rng)
    expected = kl_divergence(_normal(teacher), _normal(student)).sum(dim=1)
    torch.testing.assert_close(K.gaussian_kl(student, teacher), expected)


def test_gaussian_kl_agrees_with_sampling(rng):
    student, teacher = torch.tensor([[0.4, 0.3]]).double(), torch.tensor([[-0.2, -0.5]]).double()
    samples = torch.tensor(rng.normal(size=200_000)) * math.exp(-0.25) - 0.2
    ratio = _normal(teacher).log_prob(samples[:, None]) - _normal(student).log_prob(samples[:, None])
    error = ratio.std().item() / math.sqrt(len(samples))
    assert K.gaussian_kl(student, teacher).item() == pytest.approx(ratio.mean().item(), abs=5 * error)


def test_gaussian_kl_is_zero_only_at_the_teacher_and_never_reaches_it(rng):
    teacher = _gaussians(rng).requires_grad_()
    assert K.gaussian_kl(teacher.detach(), teacher).abs().max() < 1e-15
    for column in range(6):
        moved = teacher.detach().clone()
        moved[:, column] += 0.1
        assert (K.gaussian_kl(moved, teacher) > 0).all()
    student = _gaussians(rng).requires_grad_()
    K.gaussian_kl(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad.abs().min() > 0


@pytest.mark.parametrize("name", ["gaussian_nll", "gaussian_kl"])
def test_gradients_are_those_of_the_formula(rng, name):
    reference = torch.tensor(rng.normal(size=(4, 2))) if name == "gaussian_nll" else _gaussians(rng, 4, 2)
    outputs = _gaussians(rng, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: getattr(K, name)(values, reference), outputs)


def test_half_precision_is_widened():
    outputs = torch.tensor([[300.0, -2.0]], dtype=torch.float16)
    value = K.gaussian_nll(outputs, torch.zeros(1, 1, dtype=torch.float16))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx((300.0**2 * math.exp(2.0) - 2.0) / 2, rel=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: K.gaussian_nll(torch.zeros(2, 3), torch.zeros(2, 1)),
        lambda: K.gaussian_nll(torch.zeros(2, 4), torch.zeros(2, 4)),
        lambda: K.gaussian_kl(torch.zeros(2, 4), torch.zeros(2, 6)),
        lambda: K.pixel_cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)),
        lambda: K.pixel_cross_entropy(torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 4, dtype=torch.long)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="shape|expected"):
        call()
