"""Losses on relations against brute force over pairs and triples of samples, in float64."""

import math

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch.autograd import gradcheck

RELATIONS = [
    K.similarity_preserving,
    K.rkd_distance,
    K.rkd_angle,
    K.correlation_congruence,
    K.pkt,
    K.cka_dissimilarity,
]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def _tensor(values, *, grad=False):
    return torch.tensor(np.asarray(values), requires_grad=grad)


def _huber(x):
    x = np.abs(x)
    return np.where(x < 1, 0.5 * x**2, x - 0.5)


def _direct_distances(x):
    d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
    return d / d[d > 0].mean()


def _direct_cosines(x):
    def unit(v):
        length = np.sqrt((v**2).sum())
        return v / length if length > 0 else v

    return np.array([[[unit(b - a) @ unit(c - a) for c in x] for b in x] for a in x])


def _offsets(rng, *shape):
    """Features whose common offset is ten times their spread."""
    return rng.normal(size=shape) + 10


def test_rkd_distance_equals_the_direct_form(rng):
    s, t = _offsets(rng, 7, 2, 3), _offsets(rng, 7, 9)
    expected = _huber(_direct_distances(s.reshape(7, -1)) - _direct_distances(t)).mean(axis=1)
    np.testing.assert_allclose(K.rkd_distance(_tensor(s), _tensor(t)).numpy(), expected, rtol=1e-10)


def test_rkd_distance_is_linear_beyond_a_difference_of_one(rng):
    s, t = _tensor([[0.0], [0.1], [0.2], [20.0]]), _tensor([[0.0], [1.0], [2.0], [3.0]])
    difference = _direct_distances(s.numpy()) - _direct_distances(t.numpy())
    assert np.abs(difference).max() > 1
    np.testing.assert_allclose(K.rkd_distance(s, t).numpy(), _huber(difference).mean(axis=1), rtol=1e-12)


def test_rkd_angle_equals_the_direct_form(rng):
    s, t = _offsets(rng, 6, 2, 3), _offsets(rng, 6, 4)
    expected = _huber(_direct_cosines(s.reshape(6, -1)) - _direct_cosines(t)).mean(axis=(1, 2))
    np.testing.assert_allclose(K.rkd_angle(_tensor(s), _tensor(t)).numpy(), expected, rtol=1e-10)


def test_rkd_angle_knows_an_equilateral_triangle_from_a_line():
    triangle = _tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    line = _tensor([[0.0], [1.0], [2.0]])
    # Cosines differ at the ends by 1 - 1/2, in the middle by -1 - 1/2, in two of nine places each.
    expected = [2 * 0.125 / 9, 2 * 1.0 / 9, 2 * 0.125 / 9]
    np.testing.assert_allclose(K.rkd_angle(line, triangle).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-5])
def test_rkd_is_exact_in_float32_for_near_duplicates_far_from_the_origin(rng, gap):
    s, t = _offsets(rng, 6, 32).astype(np.float32), _offsets(rng, 6, 8).astype(np.float32)
    s[1] = s[0] + gap * rng.normal(size=32).astype(np.float32)
    s[2] = s[0] + gap * rng.normal(size=32).astype(np.float32)
    wide, wide_t = s.astype(np.float64), t.astype(np.float64)
    distance = _huber(_direct_distances(wide) - _direct_distances(wide_t)).mean(axis=1)
    angle = _huber(_direct_cosines(wide) - _direct_cosines(wide_t)).mean(axis=(1, 2))
    np.testing.assert_allclose(K.rkd_distance(_tensor(s), _tensor(t)).numpy(), distance, rtol=1e-5)
    np.testing.assert_allclose(K.rkd_angle(_tensor(s), _tensor(t)).numpy(), angle, rtol=1e-5)


@pytest.mark.parametrize("loss", [K.rkd_distance, K.rkd_angle])
def test_rkd_gives_coincident_rows_no_gradient_towards_each_other(rng, loss):
    s = _tensor(np.repeat(_offsets(rng, 3, 5), 2, axis=0).astype(np.float32), grad=True)
    loss(s, _tensor(rng.normal(size=(6, 4)).astype(np.float32))).mean().backward()
    assert torch.isfinite(s.grad).all()
    torch.testing.assert_close(s.grad[0::2].sum(0), -s.grad[1::2].sum(0), rtol=1e-3, atol=1e-6)
    assert s.grad.abs().max() < 10


@pytest.mark.parametrize("loss", [K.rkd_distance, K.rkd_angle])
def test_rkd_ignores_rotation_shift_and_scale_but_not_one_samples_scale(rng, loss):
    s, t = _tensor(rng.normal(size=(6, 5))), _tensor(rng.normal(size=(6, 8)))
    base = loss(s, t)
    rotation = torch.linalg.qr(_tensor(rng.normal(size=(5, 5)))).Q
    torch.testing.assert_close(loss(1e-8 * (s @ rotation) + 1e-8, t), base, rtol=1e-6, atol=1e-9)
    s[0] *= 3
    assert not torch.allclose(loss(s, t), base)


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_have_the_gradient_of_their_value(rng, loss):
    s, t = _tensor(rng.normal(size=(5, 4)), grad=True), _tensor(rng.normal(size=(5, 3)))
    assert gradcheck(lambda x: loss(x, t), (s,))


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_vanish_at_the_teacher_and_send_it_no_gradient(rng, loss):
    t = _tensor(rng.normal(size=(5, 6)), grad=True)
    assert abs(loss(t.detach().clone(), t).mean()) < 1e-14
    s = _tensor(rng.normal(size=(5, 6)), grad=True)
    loss(s, t).sum().backward()
    assert t.grad is None
    assert s.grad.abs().sum() > 0


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_are_finite_for_one_and_two_samples(rng, loss, batch):
    s = _tensor(rng.normal(size=(batch, 6)), grad=True)
    values = loss(s, _tensor(rng.normal(size=(batch, 4))))
    values.sum().backward()
    assert values.shape == (batch,)
    assert torch.isfinite(values).all() and torch.isfinite(s.grad).all()


@pytest.mark.parametrize("loss, batch", [(K.rkd_distance, 1), (K.rkd_distance, 2), (K.rkd_angle, 2)])
def test_rkd_has_nothing_to_teach_where_no_relation_exists(rng, loss, batch):
    s = _tensor(rng.normal(size=(batch, 6)), grad=True)
    values = loss(s, _tensor(rng.normal(size=(batch, 4))))
    values.sum().backward()
    assert values.abs().max() < 1e-12 and s.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", RELATIONS)
@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_relations_are_finite_for_a_student_that_maps_all_samples_to_one(rng, loss, constant):
    s = torch.full((5, 6), constant, requires_grad=True)
    values = loss(s, _tensor(rng.normal(size=(5, 4)).astype(np.float32)))
    values.sum().backward()
    assert torch.isfinite(values).all() and s.grad.abs().max() < 1e3


def test_similarity_preserving_keeps_its_gradient_bounded_beside_a_dead_sample(rng):
    s = _tensor(rng.normal(size=(5, 6)).astype(np.float32))
    s[2] = 0
    s.requires_grad_()
    K.similarity_preserving(s, _tensor(rng.normal(size=(5, 4)).astype(np.float32))).mean().backward()
    assert s.grad.abs().max() < 10


@pytest.mark.parametrize("loss", RELATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_relations_widen_half_precision(rng, loss, dtype):
    s, t = 60 * torch.randn(6, 64, dtype=dtype), 60 * torch.randn(6, 32, dtype=dtype)
    values = loss(s, t)
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    torch.testing.assert_close(values, loss(s.float(), t.float()))


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_keep_full_precision_under_autocast(rng, loss):
    s, t = (_tensor(_offsets(rng, 6, width).astype(np.float32)) for width in (32, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(s, t)
    torch.testing.assert_close(mixed, loss(s, t))


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_refuse_other_batches(loss):
    with pytest.raises(ValueError, match=r"student\D*3.*teacher\D*4"):
        loss(torch.zeros(3, 2), torch.zeros(4, 2))


def _direct_cosine_matrix(x):
    return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in x] for a in x])


@pytest.mark.parametrize("gamma, order", [(0.4, 2), (0.4, 1), (1.5, 5)])
def test_correlation_congruence_equals_the_formula(rng, gamma, order):
    s, t = rng.normal(size=(6, 2, 3)), rng.normal(size=(6, 4))

    def kernel(x):
        cosines = _direct_cosine_matrix(x)
        terms = [(2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1)]
        return np.exp(-2 * gamma) * sum(terms)

    expected = ((kernel(s.reshape(6, -1)) - kernel(t)) ** 2).mean(axis=1)
    actual = K.correlation_congruence(_tensor(s), _tensor(t), gamma=gamma, order=order)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_correlation_congruence_of_high_order_is_that_of_the_gaussian_kernel(rng):
    s, t = rng.normal(size=(6, 5)), rng.normal(size=(6, 4))

    def gaussian(x):
        unit = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
        return np.exp(-0.4 * ((unit[:, None] - unit[None]) ** 2).sum(axis=-1))

    expected = ((gaussian(s) - gaussian(t)) ** 2).mean()
    high = K.correlation_congruence(_tensor(s), _tensor(t), order=20).mean()
    assert high.item() == pytest.approx(expected, rel=1e-10)
    assert K.correlation_congruence(_tensor(s), _tensor(t)).mean().item() == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("options", [{"gamma": 0.0}, {"gamma": float("nan")}, {"order": 0}])
def test_correlation_congruence_refuses_options_out_of_range(options):
    with pytest.raises(ValueError, match="gamma must be positive and order at least 1"):
        K.correlation_congruence(torch.ones(2, 3), torch.ones(2, 3), **options)


def test_pkt_equals_the_formula(rng):
    s, t = rng.normal(size=(6, 2, 3)), rng.normal(size=(6, 4))
    p, q = ((1 + _direct_cosine_matrix(x)) / 2 for x in (t, s.reshape(6, -1)))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    expected = (p * np.log(p / q)).sum(axis=1) / 6
    actual = K.pkt(_tensor(s), _tensor(t))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)
    assert (actual > 0).all()


def test_pkt_is_finite_for_opposite_samples(rng):
    s = _tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], grad=True)
    values = K.pkt(s, _tensor(rng.normal(size=(3, 4))))
    values.sum().backward()
    assert torch.isfinite(values).all() and torch.isfinite(s.grad).all()
    assert torch.isfinite(K.pkt(_tensor(rng.normal(size=(3, 4))), s)).all()


@pytest.mark.parametrize("loss", [K.correlation_congruence, K.pkt])
def test_cosine_relations_ignore_each_samples_scale_and_rotation_but_not_a_shift(rng, loss):
    s, t = _tensor(rng.normal(size=(6, 5))), _tensor(rng.normal(size=(6, 8)))
    base = loss(s, t)
    rotation = torch.linalg.qr(_tensor(rng.normal(size=(5, 5)))).Q
    scales = _tensor(rng.uniform(0.1, 10, size=(6, 1)))
    torch.testing.assert_close(loss(scales * s @ rotation, t), base)
    assert not torch.allclose(loss(s + 1, t), base)


def test_linear_cka_equals_the_feature_form(rng):
    s, t = _offsets(rng, 9, 2, 2), _offsets(rng, 9, 3)
    x, y = s.reshape(9, -1) - s.reshape(9, -1).mean(axis=0), t - t.mean(axis=0)
    expected = ((x.T @ y) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum())
    values = K.linear_cka(_tensor(s), _tensor(t))
    assert values.shape == (9,)
    assert values.mean().item() == pytest.approx(expected, rel=1e-12)
    assert K.cka_dissimilarity(_tensor(s), _tensor(t)).mean().item() == pytest.approx(1 - expected, rel=1e-12)


def test_linear_cka_is_one_for_rotated_scaled_and_shifted_features_and_not_for_stretched_ones(rng):
    s = _tensor(rng.normal(size=(8, 5)))
    rotation = torch.linalg.qr(_tensor(rng.normal(size=(5, 5)))).Q
    assert K.linear_cka(s, 1e-6 * (s @ rotation) + 1e-5).mean().item() == pytest.approx(1, abs=1e-7)
    assert K.linear_cka(s, s * _tensor([1.0, 2, 4, 8, 16])).mean() < 0.9


def test_linear_cka_is_zero_for_orthogonal_variation_and_near_its_chance_value_for_noise(rng):
    s, t = _tensor([[1.0], [1.0], [-1.0], [-1.0]]), _tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert K.linear_cka(s, t).mean().abs() < 1e-15
    # Biased HSIC of independent Gaussian features of width d over n samples: about d / (d + n) each side.
    n, d = 400, 20
    chance = K.linear_cka(_tensor(rng.normal(size=(n, d))), _tensor(rng.normal(size=(n, d)))).mean()
    assert chance.item() == pytest.approx(d / (d + n), rel=0.15)


@pytest.mark.parametrize("constant", [0.1, 3.0, 1e4])
def test_linear_cka_is_zero_where_a_side_does_not_vary(rng, constant):
    t = _tensor(rng.normal(size=(7, 4)).astype(np.float32))
    assert K.linear_cka(torch.full((7, 5), constant), t).tolist() == [0.0] * 7
    assert K.linear_cka(t, torch.full((7, 5), constant)).tolist() == [0.0] * 7
    assert K.cka_dissimilarity(t[:1], t[:1]).tolist() == [1.0]


def test_differences_below_float32s_rounding_are_no_relation(rng):
    noise = _tensor(1e4 + 1e-5 * rng.normal(size=(7, 5)), grad=True)
    t = _tensor(rng.normal(size=(7, 4)))
    assert K.linear_cka(noise, t).tolist() == [0.0] * 7
    assert torch.equal(K.rkd_distance(noise, t), K.rkd_distance(torch.zeros_like(noise), t))
    K.rkd_angle(noise, t).sum().backward()
    assert noise.grad.abs().max() == 0


def test_rows_within_float32s_rounding_of_each_other_coincide(rng):
    exact, t = _tensor(rng.normal(size=(6, 5))), _tensor(rng.normal(size=(6, 4)))
    exact[1] = exact[0]
    noisy = exact.clone()
    noisy[1] += 1e-9
    for loss in (K.rkd_distance, K.rkd_angle):
        torch.testing.assert_close(loss(noisy, t), loss(exact, t), rtol=1e-7, atol=0)


@pytest.mark.parametrize("loss", [K.similarity_preserving, K.linear_cka, K.rkd_distance, K.rkd_angle])
def test_relations_in_many_pieces_are_those_in_one(rng, monkeypatch, loss):
    s, t = _tensor(rng.normal(size=(5, 150)).astype(np.float32), grad=True), _tensor(rng.normal(size=(5, 70)))

    def value_and_gradient():
        values = loss(s, t)
        return values, torch.autograd.grad(values, s, torch.linspace(-1, 2, 5, dtype=values.dtype))[0]

    whole = value_and_gradient()
    monkeypatch.setattr("edgekd_kernels._torch.gram.PIECE_ELEMENTS", 60)
    for actual, expected in zip(value_and_gradient(), whole, strict=True):
        torch.testing.assert_close(actual, expected)
