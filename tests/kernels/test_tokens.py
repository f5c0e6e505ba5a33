"""Relations between layers of token states against loops over samples and tokens, in float64."""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch.autograd import gradcheck

LENGTHS = (5, 1, 3, 0)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def is_token():
    return torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def _states(rng, *widths, length=5):
    return [rng.normal(size=(len(LENGTHS), length, width)) for width in widths]


def _relation(first, last, length):
    total = np.zeros((first.shape[1], last.shape[1]))
    for token in range(length):
        total += np.outer(first[token], last[token])
    return total / max(length, 1)


def test_hidden_relation_equals_a_loop_over_tokens_without_padding(rng, is_token):
    s, t = _states(rng, 3, 4), _states(rng, 3, 4)
    expected = [
        np.mean((_relation(*(each[b] for each in s), n) - _relation(*(each[b] for each in t), n)) ** 2)
        for b, n in enumerate(LENGTHS)
    ]
    assert expected[-1] == 0 < min(expected[:-1])
    actual = K.hidden_relation(*map(torch.tensor, (*s, *t)), is_token=is_token)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_hidden_relation_never_sees_padding_not_even_nan(rng, is_token):
    states = [torch.tensor(each) for each in (*_states(rng, 3, 4), *_states(rng, 3, 4))]
    expected = K.hidden_relation(*states, is_token=is_token)
    poisoned = [each.where(is_token[..., None], float("nan")).requires_grad_() for each in states]
    actual = K.hidden_relation(*poisoned, is_token=is_token)
    actual.sum().backward()
    assert torch.equal(actual, expected)
    assert all(bool(torch.isfinite(each.grad).all()) for each in poisoned[:2])
    assert all(each.grad is None for each in poisoned[2:])


def test_hidden_relation_has_the_gradient_of_its_value(rng, is_token):
    s = [torch.tensor(each, requires_grad=True) for each in _states(rng, 2, 3)]
    t = [torch.tensor(each) for each in _states(rng, 2, 3)]
    assert gradcheck(lambda a, b: K.hidden_relation(a, b, *t, is_token=is_token), s)


def test_hidden_relation_ignores_the_order_of_tokens_but_not_of_layers(rng):
    first, last = (torch.tensor(each) for each in _states(rng, 3, 3))
    everything = torch.ones(len(LENGTHS), 5, dtype=torch.bool)
    order = torch.tensor([4, 2, 0, 1, 3])
    same = K.hidden_relation(first[:, order], last[:, order], first, last, is_token=everything)
    assert same.max() < 1e-24
    assert K.hidden_relation(last, first, first, last, is_token=everything).min() > 1e-6


def test_hidden_relation_computes_half_precision_in_float32(rng, is_token):
    large = torch.full((4, 5, 2), 300.0, dtype=torch.float16)
    value = K.hidden_relation(large, large, large * 0, large * 0, is_token=is_token)
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value.numpy()[:3], 90000.0**2, rtol=1e-6)


def test_hidden_relation_refuses_states_that_do_not_fit(rng, is_token):
    one, wide, short = torch.zeros(4, 5, 3), torch.zeros(4, 5, 6), torch.zeros(4, 4, 3)
    with pytest.raises(ValueError, match=r"\(4, 3, 3\).*\(4, 3, 6\)"):
        K.hidden_relation(one, one, one, wide, is_token=is_token)
    with pytest.raises(ValueError, match=r"\(4, 4, 3\)"):
        K.hidden_relation(one, short, one, one, is_token=is_token)
