"""What weighers give, against numpy: confidence, balance, chance."""

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.trace import Trace
from edgekd.distill.weighers import Balanced, Moment, RandomDrop, TeacherConfidence


def _trace(logits):
    return Trace(logits, {}, {}, torch.zeros(len(logits), 1, 8, 8))


def _moment(values, targets, index=0, seed=0):
    rows = len(values)
    batch = Batch(torch.zeros(rows, 1, 8, 8), torch.zeros(rows).long(), torch.arange(rows), torch.ones(rows).bool())
    return Moment(values, _trace(torch.zeros(rows, 4)), tuple(map(_trace, targets)), batch, Step(index, 100, 0, seed))


def _confidence(logits, temperature):
    """One minus entropy over its maximum, with loops and natural logarithms in float64."""
    result = []
    for row in logits.astype(np.float64):
        e = np.exp((row - row.max()) / temperature)
        p = e / e.sum()
        entropy = -sum(x * np.log(x) for x in p if x > 0)
        result.append(1 - entropy / np.log(len(row)))
    return np.array(result)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_confidence_is_one_minus_the_relative_entropy_of_each_target(temperature):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 6, 5)) * 3
    weigher = TeacherConfidence(value=0.5, temperature=temperature)
    weights = weigher(_moment(torch.zeros(6, 2), [torch.tensor(first), torch.tensor(second)]))
    expected = 0.5 * np.stack([_confidence(first, temperature), _confidence(second, temperature)], axis=1)
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-5)


def test_confidence_is_one_for_certainty_and_zero_for_none_even_where_a_probability_vanishes():
    certain, none = torch.tensor([[500.0, -500.0, -500.0]]), torch.full((1, 3), 7.0)
    weights = [TeacherConfidence()(_moment(torch.zeros(1, 1), [logits])) for logits in (certain, none)]
    assert weights[0].item() == 1.0
    assert weights[1].item() == pytest.approx(0.0, abs=1e-6)


def test_confidence_collapses_at_the_temperatures_of_distillation():
    logits = torch.randn(2000, 10, generator=torch.Generator().manual_seed(0)) * 3
    means = [TeacherConfidence(temperature=t)(_moment(torch.zeros(2000, 1), [logits])).mean() for t in (1, 2, 4, 8)]
    assert [mean.item() for mean in means] == pytest.approx(
        [_confidence(logits.numpy(), t).mean() for t in (1, 2, 4, 8)], rel=1e-4
    )
    assert means[0] > 0.5 > 0.05 > means[3]


def test_balanced_divides_by_the_running_mean_without_its_bias_to_zero():
    rng = np.random.default_rng(1)
    weigher = Balanced(value=2.0, memory=0.9)
    history = []
    for index in range(20):
        values = rng.normal(size=(4, 2)) * (index + 1)
        history.append(np.abs(values).mean())
        weight = weigher(_moment(torch.tensor(values), [torch.zeros(4, 3)] * 2, index))
        shares = 0.9 ** np.arange(len(history))[::-1]
        assert weight.item() == pytest.approx(2.0 / (shares @ history / shares.sum()), rel=1e-5)


def test_a_balanced_term_of_constant_size_counts_its_value_whatever_its_scale():
    for scale in (1e-3, 1.0, 1e4):
        weigher = Balanced(value=0.3)
        for index in range(5):
            values = torch.full((4, 1), scale)
            weight = weigher(_moment(values, [torch.zeros(4, 3)], index))
        assert (weight * values).mean().item() == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize("drop", [0, 1, 2])
def test_the_average_of_dropped_losses_is_survival_times_the_full_loss(drop):
    rng = np.random.default_rng(2)
    values = rng.uniform(1, 5, size=(8, 3))
    moments = (_moment(torch.tensor(values), [torch.zeros(8, 4)] * 3, index) for index in range(4000))
    draws = np.array([RandomDrop(drop=drop)(moment).numpy() for moment in moments])
    assert set(draws.sum(axis=(1, 2))) == {3 - drop}
    np.testing.assert_allclose(draws.mean(axis=0), np.full((1, 3), (3 - drop) / 3), atol=0.03)
    full = values.mean(axis=0).sum()
    dropped = (draws * values).mean(axis=1).sum(axis=1)
    assert dropped.mean() == pytest.approx((3 - drop) / 3 * full, rel=0.02)
    rescaled = RandomDrop(drop=drop, is_rescaled=True)(_moment(torch.tensor(values), [torch.zeros(8, 4)] * 3))
    assert rescaled.sum().item() == pytest.approx(3.0)


def test_one_target_survives_however_many_are_to_be_dropped():
    for count in (1, 2, 3):
        for index in range(50):
            weights = RandomDrop(value=0.7, drop=5)(_moment(torch.zeros(4, count), [torch.zeros(4, 3)] * count, index))
            assert sorted(weights.flatten().tolist()) == pytest.approx([0.0] * (count - 1) + [0.7])


def test_drops_depend_on_seed_and_step_alone():
    def drawn(seed):
        torch.randn(3)
        moments = [_moment(torch.zeros(4, 3), [torch.zeros(4, 3)] * 3, index, seed) for index in range(30)]
        return torch.cat([RandomDrop()(moment) for moment in moments])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert (drawn(1)[1:] != drawn(1)[:-1]).any()


def test_weighers_refuse_options_that_make_no_sense():
    for build, fragment in (
        (lambda: Balanced(memory=1.0), "memory must be in"),
        (lambda: TeacherConfidence(temperature=0.0), "temperature must be positive"),
        (lambda: RandomDrop(drop=-1), "drop must not be negative"),
    ):
        with pytest.raises(ConfigError, match=fragment):
            build()
