"""Each loss against a brute-force formula written in plain numpy, in float64."""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 8.0])
def test_kd_kl_equals_the_formula(rng, temperature):
    s, t = rng.normal(size=(7, 11)) * 3, rng.normal(size=(7, 11)) * 3
    p, q = _softmax(t / temperature), _softmax(s / temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1)
    actual = K.kd_kl(torch.tensor(s), torch.tensor(t), temperature=temperature)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_kd_kl_gradient_tends_to_the_centred_difference_at_high_temperature(rng):
    s, t = torch.tensor(rng.normal(size=(4, 6)), requires_grad=True), torch.tensor(rng.normal(size=(4, 6)))
    K.kd_kl(s, t, temperature=1e4).sum().backward()
    expected = ((s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))).detach() / 6
    torch.testing.assert_close(s.grad, expected, rtol=1e-3, atol=1e-4)


def test_kd_kl_is_invariant_to_a_constant_added_to_a_row(rng):
    s, t = torch.tensor(rng.normal(size=(4, 6))), torch.tensor(rng.normal(size=(4, 6)))
    torch.testing.assert_close(K.kd_kl(s + 5.0, t), K.kd_kl(s, t))


def test_kd_kl_refuses_other_shapes_and_cold_temperatures():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        K.kd_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="positive"):
        K.kd_kl(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0)


def test_hint_mse_equals_the_formula(rng):
    s, t = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 4, 5, 6))
    expected = [((s[i] - t[i]) ** 2).mean() for i in range(3)]
    np.testing.assert_allclose(K.hint_mse(torch.tensor(s), torch.tensor(t)).numpy(), expected, rtol=1e-12)


def test_similarity_preserving_equals_the_formula(rng):
    s, t = rng.normal(size=(5, 2, 3, 3)), rng.normal(size=(5, 7))
    rows = []
    for x in (s.reshape(5, -1), t):
        gram = np.array([[float(a @ b) for b in x] for a in x])
        rows.append(np.array([row / np.sqrt((row**2).sum()) for row in gram]))
    expected = ((rows[0] - rows[1]) ** 2).sum() / 25
    actual = K.similarity_preserving(torch.tensor(s), torch.tensor(t))
    assert actual.shape == (5,)
    assert actual.mean().item() == pytest.approx(expected, rel=1e-12)


def test_similarity_preserving_ignores_rotation_and_global_scale_but_not_one_samples_scale(rng):
    s, t = torch.tensor(rng.normal(size=(5, 8))), torch.tensor(rng.normal(size=(5, 6)))
    base = K.similarity_preserving(s, t)
    rotation = torch.linalg.qr(torch.tensor(rng.normal(size=(8, 8)))).Q
    torch.testing.assert_close(K.similarity_preserving(3.0 * s @ rotation, t), base)
    s[0] *= 3
    assert not torch.allclose(K.similarity_preserving(s, t), base)


def test_similarity_preserving_stays_within_its_bounds_for_non_negative_features(rng):
    for _ in range(20):
        s, t = torch.tensor(rng.random((6, 9))), torch.tensor(rng.random((6, 9)))
        assert 0 <= 6 * K.similarity_preserving(s, t).mean() <= 2


def test_vid_equals_the_formula(rng):
    mean, t, raw = rng.normal(size=(3, 4, 2, 2)), rng.normal(size=(3, 4, 2, 2)), rng.normal(size=4)
    variance = np.log1p(np.exp(raw)) + 1e-5
    expected = [
        np.mean([(0.5 * ((mean[i, c] - t[i, c]) ** 2 / variance[c] + np.log(variance[c]))).mean() for c in range(4)])
        for i in range(3)
    ]
    actual = K.vid(torch.tensor(mean), torch.tensor(t), torch.tensor(raw))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_vid_optimum_is_half_of_one_plus_log_mse(rng):
    error = torch.tensor(rng.normal(size=(64, 3, 4, 4))) * torch.tensor([0.5, 1.0, 3.0]).view(1, 3, 1, 1)
    mse = error.square().mean(dim=(0, 2, 3))
    raw = torch.log(torch.expm1(mse - 1e-5))
    best = K.vid(error, torch.zeros_like(error), raw).mean()
    torch.testing.assert_close(best, (0.5 * (1 + mse.log())).mean())
    for shift in (-0.1, 0.1):
        assert K.vid(error, torch.zeros_like(error), raw + shift).mean() > best


def test_vid_stays_finite_for_large_raw_variances():
    raw = torch.tensor([100.0, -100.0], requires_grad=True)
    K.vid(torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), raw).mean().backward()
    assert torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("loss", [K.kd_kl, K.hint_mse, K.similarity_preserving])
def test_losses_vanish_at_the_teacher_and_send_it_no_gradient(rng, loss):
    t = torch.tensor(rng.normal(size=(4, 6)), requires_grad=True)
    assert loss(t.detach().clone(), t).abs().max() < 1e-12
    s = torch.tensor(rng.normal(size=(4, 6)), requires_grad=True)
    loss(s, t).sum().backward()
    assert t.grad is None
    assert s.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_accumulate_half_precision_in_float32(dtype):
    s, t = torch.full((2, 64), 300.0, dtype=dtype), torch.zeros(2, 64, dtype=dtype)
    assert K.hint_mse(s, t).dtype == torch.float32
    assert torch.isfinite(K.hint_mse(s, t)).all()
    assert torch.isfinite(K.similarity_preserving(s, s)).all()
