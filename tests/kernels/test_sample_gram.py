"""Gram matrices within each sample against loops over layers, channels and modalities, in float64."""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch.autograd import gradcheck


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def _tensor(values, *, grad=False):
    return torch.tensor(np.asarray(values), requires_grad=grad)


def _flow(first, last):
    """Inner products of channels over positions, maps of one size."""
    channels, others = range(first.shape[1]), range(last.shape[1])
    return np.array(
        [[[np.mean(a[c] * b[d]) for d in others] for c in channels] for a, b in zip(first, last, strict=True)]
    )


def _halved(x):
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean(axis=(3, 5))


def test_fsp_equals_the_formula_with_the_larger_map_pooled(rng):
    s = rng.normal(size=(3, 2, 4, 6)), rng.normal(size=(3, 5, 2, 3))
    t = rng.normal(size=(3, 2, 8, 8)), rng.normal(size=(3, 5, 8, 8))
    difference = _flow(_halved(s[0]), s[1]) - _flow(*t)
    actual = K.fsp(*map(_tensor, (*s, *t)))
    np.testing.assert_allclose(actual.numpy(), (difference**2).mean(axis=(1, 2)), rtol=1e-10)


def test_fsp_pools_height_and_width_each_to_the_smaller(rng):
    tall, wide = rng.normal(size=(2, 2, 4, 2)), rng.normal(size=(2, 3, 2, 4))
    small = tall.reshape(2, 2, 2, 2, 2).mean(axis=3), wide.reshape(2, 3, 2, 2, 2).mean(axis=4)
    zeros = np.zeros((2, 2, 2, 2)), np.zeros((2, 3, 2, 2))
    expected = (_flow(*small) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(K.fsp(*map(_tensor, (tall, wide, *zeros))).numpy(), expected, rtol=1e-10)


def test_fsp_pools_a_last_map_that_is_the_larger_one(rng):
    first, last = rng.normal(size=(2, 2, 3, 3)), rng.normal(size=(2, 3, 4, 4))
    windows = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])
    zeros = np.zeros((2, 2, 3, 3)), np.zeros((2, 3, 3, 3))
    expected = (_flow(first, windows @ last @ windows.T) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(K.fsp(*map(_tensor, (first, last, *zeros))).numpy(), expected, rtol=1e-10)


def test_fsp_vanishes_at_the_teacher_whatever_the_order_of_positions_and_sends_it_no_gradient(rng):
    t = [_tensor(rng.normal(size=(3, 2, 4, 4)), grad=True) for _ in range(2)]
    order = torch.as_tensor(rng.permutation(16))
    shuffled = [x.detach().flatten(2)[:, :, order].unflatten(2, (4, 4)) for x in t]
    assert K.fsp(*shuffled, *t).abs().max() < 1e-20
    swapped = [x[:, [1, 0]] for x in shuffled]
    assert K.fsp(swapped[0], shuffled[1], *t).min() > 1e-6
    s = [_tensor(rng.normal(size=(3, 2, 4, 4)), grad=True) for _ in range(2)]
    K.fsp(*s, *t).sum().backward()
    assert all(x.grad is None for x in t) and all(x.grad.abs().sum() > 0 for x in s)


def test_fsp_has_the_gradient_of_its_value(rng):
    s = [_tensor(rng.normal(size=(2, 2, 4, 4)), grad=True), _tensor(rng.normal(size=(2, 3, 2, 2)), grad=True)]
    t = [_tensor(rng.normal(size=(2, 2, 4, 4))), _tensor(rng.normal(size=(2, 3, 2, 2)))]
    assert gradcheck(lambda a, b: K.fsp(a, b, *t), s)


def test_fsp_refuses_other_channels_and_batches(rng):
    one, two = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 3, 3\).*\(2, 3, 5\)"):
        K.fsp(one, one, one, two)
    with pytest.raises(ValueError, match="batch sizes differ"):
        K.fsp(one, two[:1], one, two)


def _relations(x, normalise):
    unit = x / np.sqrt((x**2).sum(axis=-1, keepdims=True)) if normalise else x
    return np.array([[[a @ b for b in sample] for a in sample] for sample in unit])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_modality_gram_equals_the_formula(rng, normalise, scope):
    s, t = rng.normal(size=(4, 3, 5)), rng.normal(size=(4, 3, 2))
    difference = _relations(s, normalise) - _relations(t, normalise)
    if scope == "batch":
        difference = np.repeat(difference.mean(axis=0, keepdims=True), 4, axis=0)
    expected = [sum(d[i, j] ** 2 for i in range(3) for j in range(3) if i != j) / 6 for d in difference]
    actual = K.modality_gram(_tensor(s), _tensor(t), normalise=normalise, scope=scope)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


def test_modality_gram_of_two_modalities_is_the_squared_difference_of_cosines():
    right_angle, half = [[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, np.sqrt(3.0)]]
    value = K.modality_gram(_tensor([right_angle]), _tensor([half]))
    assert value.tolist() == pytest.approx([0.25])


def test_modality_gram_ignores_rotation_and_scale_but_not_the_order_of_modalities(rng):
    s, t = _tensor(rng.normal(size=(4, 3, 5))), _tensor(rng.normal(size=(4, 3, 5)))
    rotation = torch.linalg.qr(_tensor(rng.normal(size=(5, 5)))).Q
    base = K.modality_gram(s, t)
    torch.testing.assert_close(K.modality_gram(7 * s @ rotation, t), base)
    assert not torch.allclose(K.modality_gram(s[:, [1, 0, 2]], t), base)
    raw = K.modality_gram(s, t, normalise=False)
    torch.testing.assert_close(K.modality_gram(s @ rotation, t, normalise=False), raw)
    assert not torch.allclose(K.modality_gram(7 * s, t, normalise=False), raw)


@pytest.mark.parametrize("scope", ["sample", "batch"])
def test_modality_gram_vanishes_at_the_teacher_and_sends_it_no_gradient(rng, scope):
    t = _tensor(rng.normal(size=(4, 3, 5)), grad=True)
    assert K.modality_gram(t.detach().clone(), t, scope=scope).abs().max() < 1e-20
    s = _tensor(rng.normal(size=(4, 3, 2)), grad=True)
    K.modality_gram(s, t, scope=scope).sum().backward()
    assert t.grad is None and s.grad.abs().sum() > 0
    assert gradcheck(lambda x: K.modality_gram(x, t.detach(), scope=scope), (s,))


def test_modality_gram_is_finite_for_missing_embeddings_and_a_batch_of_one(rng):
    s = _tensor(rng.normal(size=(1, 3, 5)).astype(np.float32))
    s[0, 1] = 0
    s.requires_grad_()
    values = K.modality_gram(s, _tensor(rng.normal(size=(1, 3, 4)).astype(np.float32)))
    values.sum().backward()
    assert torch.isfinite(values).all() and s.grad.abs().max() < 100
    assert s.grad[0, 1].abs().max() == 0


def test_modality_gram_refuses_one_modality_and_shapes_that_differ():
    with pytest.raises(ValueError, match="one modality"):
        K.modality_gram(torch.zeros(4, 1, 5), torch.zeros(4, 1, 5))
    for other in ((4, 2, 5), (3, 3, 5), (4, 3)):
        with pytest.raises(ValueError, match="same B and M"):
            K.modality_gram(torch.zeros(4, 3, 5), torch.zeros(*other))
    with pytest.raises(ValueError, match="scope"):
        K.modality_gram(torch.ones(4, 3, 5), torch.ones(4, 3, 5), scope="class")


def test_sample_grams_keep_full_precision_under_autocast_and_widen_half(rng):
    maps = [_tensor(rng.normal(size=(2, 3, 4, 4)).astype(np.float32)) + 10 for _ in range(4)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = K.fsp(*maps)
        mixed_gram = K.modality_gram(maps[0][:, :, 0], maps[1][:, :, 0])
    torch.testing.assert_close(mixed, K.fsp(*maps))
    torch.testing.assert_close(mixed_gram, K.modality_gram(maps[0][:, :, 0], maps[1][:, :, 0]))
    assert K.fsp(*(x.half() for x in maps)).dtype == torch.float32
    assert torch.isfinite(K.fsp(*(x.half() * 300 for x in maps))).all()
