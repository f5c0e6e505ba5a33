import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import DataError
from edgekd.profile import median_ranks, percentile, summarise

SAMPLES = st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=200)


@given(samples=SAMPLES, percent=st.integers(1, 100))
def test_percentile_is_numpys_inverted_cdf(samples, percent):
    expected = np.percentile(samples, percent, method="inverted_cdf")
    assert percentile(sorted(samples), percent) == expected


@given(samples=SAMPLES)
def test_summary_agrees_with_numpy_and_keeps_every_sample(samples):
    summary = summarise(samples)
    for percent, got in ((50, summary.p50_ms), (90, summary.p90_ms), (99, summary.p99_ms)):
        assert got == np.percentile(samples, percent, method="inverted_cdf")
    assert summary.samples == len(samples)
    assert (summary.min_ms, summary.max_ms) == (min(samples), max(samples))
    assert summary.mean_ms == pytest.approx(math.fsum(samples) / len(samples))
    assert summary.cov == pytest.approx(np.std(samples, ddof=1) / np.mean(samples), abs=1e-12)
    assert summary.low_ms <= summary.p50_ms <= summary.high_ms


def test_percentile_of_known_samples():
    samples = [float(value) for value in range(1, 101)]
    assert [percentile(samples, p) for p in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert percentile([1.0, 2.0], 51) == 2.0


def brute_force_coverage(count, low):
    return sum(math.comb(count, k) for k in range(low, count - low + 1)) / 2**count


@pytest.mark.parametrize("count", [6, 7, 8, 9, 20, 21, 100, 101, 300, 999, 1000])
def test_median_ranks_are_the_tightest_symmetric_ones(count):
    low, high, coverage = median_ranks(count)
    assert high == count + 1 - low
    assert coverage == pytest.approx(brute_force_coverage(count, low), rel=1e-9)
    assert brute_force_coverage(count, low) >= 0.95
    assert brute_force_coverage(count, low + 1) < 0.95


def test_median_ranks_of_known_sign_test_tables():
    assert [median_ranks(n)[:2] for n in (10, 20, 30)] == [(2, 9), (6, 15), (10, 21)]


def test_median_ranks_of_huge_samples_follow_the_normal_limit():
    count = 2_000_000
    low, _, coverage = median_ranks(count)
    assert coverage == pytest.approx(0.95, abs=1e-3)
    assert (count / 2 - low) / (math.sqrt(count) / 2) == pytest.approx(1.96, abs=0.01)


@pytest.mark.parametrize("count", [10, 60, 300])
def test_interval_holds_the_true_median_as_often_as_it_says(count):
    rng = np.random.default_rng(count)
    trials = 2000
    draws = rng.lognormal(0.0, 0.5, (trials, count))  # skewed, as latencies are; true median 1
    hits = sum((s := summarise(row)).low_ms <= 1.0 <= s.high_ms for row in draws)
    _, _, coverage = median_ranks(count)
    spread = math.sqrt(coverage * (1 - coverage) / trials)
    assert hits / trials == pytest.approx(coverage, abs=4 * spread)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([1.0] * 5, "5 latency samples are too few"),
        ([], "0 latency samples"),
        ([1.0] * 6 + [math.nan], "positive and finite"),
        ([1.0] * 6 + [math.inf], "positive and finite"),
        ([1.0] * 6 + [0.0], "positive and finite"),
    ],
)
def test_unusable_samples_are_refused(samples, message):
    with pytest.raises(DataError, match=message):
        summarise(samples)


@pytest.mark.parametrize(("samples", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_impossible_percentiles_are_refused(samples, percent):
    with pytest.raises(DataError):
        percentile(samples, percent)


def test_too_few_samples_have_no_interval():
    with pytest.raises(DataError, match="5 samples"):
        median_ranks(5)
