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
