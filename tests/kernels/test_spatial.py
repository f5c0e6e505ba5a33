"""Losses on feature maps against formulas written in plain numpy loops, in float64, and at their hazards."""

import math

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def _tensors(rng, *shapes):
    return [torch.tensor(rng.normal(size=shape)) for shape in shapes]


def _windows_mean(image, rows, columns):
    """Average-pool a plane [H, W] over windows floor(i H / rows) to ceil((i + 1) H / rows)."""
    height, width = image.shape
    out = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, -(-(i + 1) * height // rows)
            left, right = j * width // columns, -(-(j + 1) * width // columns)
            out[i, j] = image[top:bottom, left:right].mean()
    return out


def _pool(maps, rows, columns):
    return np.array([[_windows_mean(plane, rows, columns) for plane in sample] for sample in maps])


ONE_SHAPE = [K.hint_l2, K.pkd, K.mgd, K.pooled_mse, K.factor_transfer]
ANY_SHAPE = [K.attention_transfer, K.nst]
SCALE_FREE = [K.hint_l2, K.factor_transfer, K.pkd, *ANY_SHAPE]


@pytest.mark.parametrize("loss", ONE_SHAPE + ANY_SHAPE)
def test_gradients_are_those_of_the_value(rng, loss):
    s, t = _tensors(rng, (3, 4, 3, 2), (3, 4, 3, 2))
    assert torch.autograd.gradcheck(lambda x: loss(x, t), s.requires_grad_())


@pytest.mark.parametrize("loss", ONE_SHAPE + ANY_SHAPE)
def test_losses_are_zero_at_the_teacher_and_send_it_no_gradient(rng, loss):
    s, t = (x.requires_grad_() for x in _tensors(rng, (3, 4, 3, 2), (3, 4, 3, 2)))
    assert loss(t.detach().clone(), t).abs().max() < 1e-12
    values = loss(s, t)
    assert values.shape == (3,) and values.min() > 1e-4
    values.sum().backward()
    assert t.grad is None and s.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", ONE_SHAPE)
def test_losses_of_one_shape_refuse_another(loss):
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\).*\(2, 5, 4, 4\)"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))


@pytest.mark.parametrize("loss", ANY_SHAPE)
def test_losses_of_any_shape_refuse_other_batches_and_vectors(loss):
    with pytest.raises(ValueError, match="batch sizes differ"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4))
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", ONE_SHAPE + ANY_SHAPE)
def test_half_precision_is_accumulated_in_float32(rng, loss, dtype):
    s, t = (300 * x.to(dtype) for x in _tensors(rng, (3, 4, 3, 2), (3, 4, 3, 2)))
    values = loss(s.requires_grad_(), t)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), loss(s.detach().double(), t.double()), rtol=1e-4, atol=1e-6)
    (grad,) = torch.autograd.grad(values.mean(), s)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("constant", [0.0, 1e-9, 0.1, 12345.678])
@pytest.mark.parametrize("loss", SCALE_FREE)
def test_constant_and_zero_maps_give_finite_values_and_bounded_gradients(loss, constant):
    torch.manual_seed(0)
    s, t = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    s[0] = constant
    s[1, 1] = constant
    t[1, 2] = constant
    values = loss(s.requires_grad_(), t)
    values.mean().backward()
    assert torch.isfinite(values).all()
    assert s.grad.abs().max() < 10


@pytest.mark.parametrize("loss", ONE_SHAPE + ANY_SHAPE)
def test_a_single_sample_of_one_position_is_no_hazard(loss):
    s = torch.rand(1, 3, 1, 1, requires_grad=True)
    loss(s, torch.rand(1, 3, 1, 1)).mean().backward()
    assert torch.isfinite(s.grad).all()


def test_hint_l2_equals_the_formula(rng):
    s, t = rng.normal(size=(3, 5, 2, 4)), rng.normal(size=(3, 5, 2, 4))
    expected = []
    for one, other in zip(s, t, strict=True):
        total = 0.0
        for i in range(2):
            for j in range(4):
                a, b = one[:, i, j], other[:, i, j]
                total += 2 - 2 * (a @ b) / math.sqrt((a @ a) * (b @ b))
        expected.append(total / (5 * 2 * 4))
    np.testing.assert_allclose(K.hint_l2(torch.tensor(s), torch.tensor(t)).numpy(), expected, rtol=1e-12)


def test_hint_l2_ignores_each_locations_length_but_not_a_channels_scale(rng):
    s, t = _tensors(rng, (2, 3, 4, 4), (2, 3, 4, 4))
    length = torch.tensor(rng.uniform(0.1, 10, size=(2, 1, 4, 4)))
    torch.testing.assert_close(K.hint_l2(s * length, t), K.hint_l2(s, t))
    assert not torch.allclose(K.hint_l2(s * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), t), K.hint_l2(s, t))


def test_hint_l2_of_a_zero_vector_counts_the_teachers_and_sends_no_gradient():
    s, t = torch.ones(1, 4, 1, 2), torch.ones(1, 4, 1, 2)
    s[..., 0] = 0
    values = K.hint_l2(s.requires_grad_(), t)
    assert values.item() == pytest.approx(1 / 8)
    values.sum().backward()
    assert s.grad[..., 0].abs().max() == 0


def test_hint_l2_survives_lengths_whose_square_is_not_representable():
    s, t = torch.ones(1, 4, 1, 1), torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1)
    expected = K.hint_l2(s, t).item()
    assert K.hint_l2(s * 1e25, t).item() == pytest.approx(expected, rel=1e-5)


def test_pkd_is_one_minus_the_correlation_of_each_channel(rng):
    s, t = rng.normal(size=(4, 5, 3, 2)), rng.normal(size=(4, 5, 3, 2))
    correlations = [np.corrcoef(s[:, c].ravel(), t[:, c].ravel())[0, 1] for c in range(5)]
    actual = K.pkd(torch.tensor(s), torch.tensor(t))
    assert actual.mean().item() == pytest.approx(1 - np.mean(correlations), rel=1e-12)


def test_pkd_gives_each_sample_its_share_of_the_standardised_difference(rng):
    s, t = rng.normal(size=(4, 5, 3, 2)), 3 * rng.normal(size=(4, 5, 3, 2)) + 1
    expected = np.zeros(4)
    for c in range(5):
        a, b = ((x[:, c] - x[:, c].mean()) / x[:, c].std() for x in (s, t))
        expected += ((a - b) ** 2).mean(axis=(1, 2)) / (2 * 5)
    np.testing.assert_allclose(K.pkd(torch.tensor(s), torch.tensor(t)).numpy(), expected, rtol=1e-12)


def test_pkd_ignores_each_channels_scale_and_offset_but_not_its_sign(rng):
    s, t = _tensors(rng, (4, 3, 2, 2), (4, 3, 2, 2))
    scale, offset = (torch.tensor(rng.uniform(0.1, 10, size=(1, 3, 1, 1))) for _ in range(2))
    torch.testing.assert_close(K.pkd(scale * s + offset, t), K.pkd(s, t))
    assert K.pkd(-t, t).mean().item() == pytest.approx(2.0)


def test_pkd_treats_a_constant_channel_as_uncorrelated_and_sends_it_no_gradient():
    s, t = torch.full((4, 1, 3, 3), 0.1), torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    values = K.pkd(s.requires_grad_(), t)
    assert values.mean().item() == pytest.approx(0.5, rel=1e-5)
    values.sum().backward()
    assert s.grad.abs().max() == 0


def test_pkd_keeps_its_digits_beside_a_large_offset(rng):
    s, t = (x.float() for x in _tensors(rng, (8, 2, 4, 4), (8, 2, 4, 4)))
    s, t = s + 1000, t - 1000
    torch.testing.assert_close(K.pkd(s, t), K.pkd(s.double(), t.double()).float(), rtol=1e-3, atol=1e-4)


def _attention(maps, p):
    energy = (np.abs(maps) ** p).mean(axis=1).reshape(len(maps), -1)
    return np.array([row / math.sqrt(sum(v * v for v in row)) for row in energy])


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 4.0])
def test_attention_transfer_equals_the_formula(rng, p):
    s, t = rng.normal(size=(3, 4, 3, 5)), rng.normal(size=(3, 7, 3, 5))
    expected = ((_attention(s, p) - _attention(t, p)) ** 2).mean(axis=1)
    actual = K.attention_transfer(torch.tensor(s), torch.tensor(t), p=p)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("student, teacher", [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((7, 5), (3, 2)), ((3, 3), (7, 7))])
def test_attention_transfer_pools_the_larger_map_before_squaring(rng, student, teacher):
    s, t = rng.normal(size=(2, 3, *student)), rng.normal(size=(2, 4, *teacher))
    size = min(student, teacher)
    a, b = (_attention(_pool(x, *size), 2) for x in (s, t))
    actual = K.attention_transfer(torch.tensor(s), torch.tensor(t))
    np.testing.assert_allclose(actual.numpy(), ((a - b) ** 2).mean(axis=1), rtol=1e-10)


def test_attention_transfer_ignores_a_samples_scale_signs_and_the_order_of_channels_but_not_of_positions(rng):
    s, t = _tensors(rng, (3, 4, 3, 3), (3, 4, 3, 3))
    base = K.attention_transfer(s, t)
    changed = -s[:, [2, 0, 3, 1]] * torch.tensor([0.1, 5.0, 1e4]).double().view(3, 1, 1, 1)
    torch.testing.assert_close(K.attention_transfer(changed, t), base)
    assert not torch.allclose(K.attention_transfer(s.flip(-1), t), base)
    assert not torch.allclose(K.attention_transfer(s * torch.arange(1.0, 5).view(1, 4, 1, 1), t), base)


@pytest.mark.parametrize("p", [2.0, 4.0])
@pytest.mark.parametrize("scale", [1e-5, 1e12, 1e25])
def test_attention_transfer_survives_powers_that_float32_cannot_hold(rng, p, scale):
    s, t = (x.float() for x in _tensors(rng, (2, 3, 4, 4), (2, 3, 4, 4)))
    base = K.attention_transfer(s, t, p=p)
    torch.testing.assert_close(K.attention_transfer(scale * s, t / scale**0.2, p=p), base, rtol=1e-4, atol=1e-7)


def test_attention_transfer_of_a_dead_map_counts_the_teachers_and_sends_no_gradient():
    s, t = torch.zeros(1, 2, 2, 2, requires_grad=True), torch.ones(1, 2, 2, 2)
    values = K.attention_transfer(s, t)
    assert values.item() == pytest.approx(1 / 4)
    values.sum().backward()
    assert s.grad.abs().max() == 0


def test_attention_transfer_refuses_a_power_below_one():
    with pytest.raises(ValueError, match="p must be 1 or more, got 0.5"):
        K.attention_transfer(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), p=0.5)


def test_mgd_is_the_sum_over_the_map(rng):
    s, t = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 4, 5, 6))
    expected = [sum((a - b) ** 2 for a, b in zip(s[i].ravel(), t[i].ravel(), strict=True)) for i in range(3)]
    np.testing.assert_allclose(K.mgd(torch.tensor(s), torch.tensor(t)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "size, levels",
    [((8, 8), (4, 2, 1)), ((14, 9), (4, 2, 1)), ((3, 8), (2, 1)), ((4, 6), (2, 1)), ((2, 2), (1,)), ((1, 1), ())],
)
def test_pooled_mse_equals_the_formula(rng, size, levels):
    s, t = rng.normal(size=(2, 3, *size)), rng.normal(size=(2, 3, *size))
    expected, weight, total = ((s - t) ** 2).mean(axis=(1, 2, 3)), 1.0, 1.0
    for level in levels:
        weight /= 2
        total += weight
        expected += weight * ((_pool(s, level, level) - _pool(t, level, level)) ** 2).mean(axis=(1, 2, 3))
    actual = K.pooled_mse(torch.tensor(s), torch.tensor(t))
    np.testing.assert_allclose(actual.numpy(), expected / total, rtol=1e-12)


def test_pooled_mse_without_levels_is_the_mean_squared_difference(rng):
    s, t = _tensors(rng, (2, 3, 6, 6), (2, 3, 6, 6))
    torch.testing.assert_close(K.pooled_mse(s, t, levels=()), K.hint_mse(s, t))


def test_pooled_mse_forgives_a_small_shift_more_than_a_mean_squared_difference_does(rng):
    t = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    t[0, 0, 3, 3] = 1
    near, far = t.roll(-1, dims=3), t.roll(4, dims=3)
    torch.testing.assert_close(K.hint_mse(near, t), K.hint_mse(far, t))
    assert K.pooled_mse(near, t) < K.pooled_mse(far, t)


def test_pooled_mse_refuses_vectors_and_levels_that_are_not_positive():
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        K.pooled_mse(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="positive"):
        K.pooled_mse(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), levels=(2, 0))


def _mmd(s, t):
    """Squared maximum mean discrepancy by its definition: three double sums over pairs of channels."""

    def mean_kernel(xs, ys):
        return sum(float(x @ y) ** 2 for x in xs for y in ys) / (len(xs) * len(ys))

    s, t = ([row / math.sqrt(row @ row) for row in x.reshape(len(x), -1)] for x in (s, t))
    return mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t)


@pytest.mark.parametrize("channels, size", [((2, 3), (4, 5)), ((7, 9), (2, 3)), ((1, 1), (1, 4)), ((4, 30), (3, 3))])
def test_nst_equals_the_formula(rng, channels, size):
    s, t = (rng.normal(size=(3, width, *size)) for width in channels)
    expected = [_mmd(one, other) for one, other in zip(s, t, strict=True)]
    actual = K.nst(torch.tensor(s), torch.tensor(t))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, atol=1e-15)


def test_nst_pools_the_larger_map(rng):
    s, t = rng.normal(size=(2, 3, 7, 5)), rng.normal(size=(2, 4, 3, 2))
    expected = [_mmd(one, other) for one, other in zip(_pool(s, 3, 2), t, strict=True)]
    np.testing.assert_allclose(K.nst(torch.tensor(s), torch.tensor(t)).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("size", [(2, 2), (6, 6)])
def test_nst_ignores_order_and_scale_of_channels_and_doubled_ones_but_not_positions(rng, size):
    s, t = _tensors(rng, (2, 4, *size), (2, 5, *size))
    base = K.nst(s, t)
    scale = torch.tensor([0.1, -2.0, 30.0, 1.0]).double().view(1, 4, 1, 1)
    torch.testing.assert_close(K.nst((s * scale)[:, [3, 1, 0, 2]], t), base)
    torch.testing.assert_close(K.nst(torch.cat([s, s], dim=1), t), base)
    assert not torch.allclose(K.nst(s.flip(-1), t), base)


@pytest.mark.parametrize("channels, side", [(1024, 4), (4, 48)])
def test_nst_makes_nothing_larger_than_both_maps_together(channels, side):
    s, t = torch.rand(1, channels, side, side), torch.rand(1, channels, side, side)
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Largest():
        K.nst(s, t)
    assert largest <= 2 * s.numel()


@pytest.mark.parametrize("size", [(2, 2), (6, 6)])
def test_nst_stays_in_float32_under_autocast(rng, size):
    s, t = (x.float() for x in _tensors(rng, (2, 4, *size), (2, 5, *size)))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(K.nst(s, t), K.nst(s.double(), t.double()).float())


def test_factor_transfer_equals_the_formula_and_ignores_a_samples_scale(rng):
    s, t = rng.normal(size=(3, 4, 2, 5)), rng.normal(size=(3, 4, 2, 5))
    expected = []
    for one, other in zip(s, t, strict=True):
        lengths = [math.sqrt(sum(v * v for v in x.ravel())) for x in (one, other)]
        gaps = [abs(a / lengths[0] - b / lengths[1]) for a, b in zip(one.ravel(), other.ravel(), strict=True)]
        expected.append(sum(gaps) / 40)
    s, t = torch.tensor(s), torch.tensor(t)
    np.testing.assert_allclose(K.factor_transfer(s, t).numpy(), expected, rtol=1e-12)
    scale = torch.tensor([0.1, 1.0, 70.0]).double().view(3, 1, 1, 1)
    torch.testing.assert_close(K.factor_transfer(s * scale, t), K.factor_transfer(s, t))
    assert not torch.allclose(K.factor_transfer(-s, t), K.factor_transfer(s, t))


def test_projected_match_equals_the_formula_position_by_position(rng):
    s, t, r = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 6, 4, 5)), rng.normal(size=(3, 6))
    expected = []
    for i in range(2):
        distances = [((s[i, :, y, x] - r @ t[i, :, y, x]) ** 2).sum() for y in range(4) for x in range(5)]
        expected.append(np.mean(distances))
    actual = K.projected_match(torch.tensor(s), torch.tensor(t), torch.tensor(r))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    vectors = K.projected_match(torch.tensor(s[:, :, 0, 0]), torch.tensor(t[:, :, 0, 0]), torch.tensor(r))
    np.testing.assert_allclose(
        vectors.numpy(), [((s[i, :, 0, 0] - r @ t[i, :, 0, 0]) ** 2).sum() for i in range(2)], rtol=1e-12
    )


def test_projected_match_moves_the_student_alone_and_refuses_what_does_not_go_together(rng):
    s, t, r = (torch.tensor(rng.normal(size=shape), requires_grad=True) for shape in ((2, 3, 4), (2, 6, 4), (3, 6)))
    assert torch.autograd.gradcheck(lambda x: K.projected_match(x, t.detach(), r.detach()), (s,))
    K.projected_match(s, t, r).sum().backward()
    assert s.grad.abs().sum() > 0 and t.grad is None and r.grad is None
    with pytest.raises(ValueError, match="does not take features"):
        K.projected_match(s, t, r[:, :5])
    with pytest.raises(ValueError, match="shapes differ"):
        K.projected_match(s[:, :2], t, r)


def test_projected_match_keeps_its_digits_under_autocast(rng):
    s, t, r = (rng.normal(size=size).astype(np.float32) for size in ((2, 3), (2, 5), (3, 5)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = K.projected_match(torch.tensor(s), torch.tensor(t), torch.tensor(r))
    expected = ((s.astype(np.float64) - t.astype(np.float64) @ r.T.astype(np.float64)) ** 2).sum(axis=1)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5)
