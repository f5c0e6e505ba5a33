import math

import numpy as np
import pytest
from scipy.stats import binom

from edgekd.core.errors import DataError
from edgekd.profile import median_ranks, quantile_ranks, quantiles_of


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("count", [36, 100, 368, 1000, 4000])
def test_ranks_are_the_tightest_with_equal_tails(count, share):
    ranks = quantile_ranks(count, share)
    if ranks is None:
        assert binom.pmf(count, count, share) > 0.025 or binom.pmf(0, count, share) > 0.025
        return
    low, high, coverage = ranks
    law = binom(count, share)
    assert law.cdf(low - 1) <= 0.025 < law.cdf(low)
    assert law.sf(high - 1) <= 0.025 < law.sf(high - 2)
    assert coverage == pytest.approx(law.cdf(high - 1) - law.cdf(low - 1), rel=1e-9)


@pytest.mark.parametrize("count", [6, 7, 20, 101, 300])
def test_the_median_has_the_ranks_of_the_sign_test(count):
    assert quantile_ranks(count, 0.5) == pytest.approx(median_ranks(count))


@pytest.mark.parametrize(("count", "names"), [(5, ""), (6, "p50"), (35, "p50"), (36, "p50 p90"), (367, "p50 p90")])
def test_percentiles_are_given_only_where_samples_suffice(count, names):
    assert " ".join(one.name for one in quantiles_of([1.0 + i for i in range(count)])) == names


@pytest.mark.parametrize(("count", "fourth"), [(3687, False), (3688, True)])
def test_p999_needs_3688_samples(count, fourth):
    found = quantiles_of([float(value) for value in range(1, count + 1)])
    assert [one.name for one in found] == ["p50", "p90", "p99", "p999"][: 3 + fourth]
    p99 = found[2]
    assert p99.value_ms == math.ceil(count * 0.99)
    assert p99.low_ms < p99.value_ms < p99.high_ms


def test_p99_interval_holds_the_true_p99_as_often_as_it_says():
    rng = np.random.default_rng(0)
    trials, true = 1000, -math.log(0.01)
    hits = 0
    for row in rng.exponential(size=(trials, 500)):
        p99 = quantiles_of(row.tolist())[2]
        hits += p99.low_ms <= true <= p99.high_ms
    coverage = quantile_ranks(500, 0.99)[2]
    assert hits / trials == pytest.approx(coverage, abs=4 * math.sqrt(coverage * (1 - coverage) / trials))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 50])
def test_impossible_shares_are_refused(share):
    with pytest.raises(DataError, match="between 0 and 1"):
        quantile_ranks(100, share)
