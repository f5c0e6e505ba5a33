"""Latency statistics that can be checked by hand: every percentile is a latency that was observed.

The p-th percentile of n samples is the nearest rank, `x_(ceil(n p / 100))` of the sorted samples (numpy's
`inverted_cdf`): the smallest observed latency that at least p % of the runs kept. Nothing is interpolated, no sample is
dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.core.errors import DataError

_CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 6  # 1 - 2 * 0.5**n reaches 0.95 at n = 6
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
"""Share of runs that each named percentile keeps."""


@dataclass(frozen=True)
class Summary:
    """Statistics of latency samples.

    Attributes:
        samples: How many.
        p50_ms: Median (nearest rank).
        p90_ms: 90th percentile (nearest rank).
        p99_ms: 99th percentile (nearest rank).
        mean_ms: Arithmetic mean.
        min_ms: Fastest.
        max_ms: Slowest.
        cov: Coefficient of variation: standard deviation (n - 1) over mean.
        low_ms: Lower end of the interval of the median.
        high_ms: Upper end of the interval of the median.
        coverage: Probability that the interval holds the true median, were the samples independent.
    """

    samples: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    cov: float
    low_ms: float
    high_ms: float
    coverage: float


@dataclass(frozen=True)
class Quantile:
    """A percentile with its interval.

    Attributes:
        name: A key of `SHARES`.
        value_ms: The percentile (nearest rank).
        low_ms: Lower end of its interval.
        high_ms: Upper end of its interval.
        coverage: Probability that the interval holds the true percentile, were the samples independent.
    """

    name: str
    value_ms: float
    low_ms: float
    high_ms: float
    coverage: float


def summarise(samples_ms: Sequence[float]) -> Summary:
    """Compute all statistics.

    Args:
        samples_ms: Milliseconds of each run, in any order; all of them are used.

    Returns:
        The summary.

    Raises:
        DataError: Fewer than six samples, or one that is not positive and finite.
    """
    ordered = np.sort(np.asarray(samples_ms, dtype=np.float64))
    count = len(ordered)
    if count < FEWEST_FOR_INTERVAL:
        raise DataError(f"{count} latency samples are too few; {FEWEST_FOR_INTERVAL} are needed for an interval")
    if not (np.isfinite(ordered).all() and ordered[0] > 0):
        raise DataError("latency samples must be positive and finite")
    low, high, coverage = median_ranks(count)
    mean = float(ordered.mean())
    return Summary(
        samples=count,
        p50_ms=percentile(ordered.tolist(), 50),
        p90_ms=percentile(ordered.tolist(), 90),
        p99_ms=percentile(ordered.tolist(), 99),
        mean_ms=mean,
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        cov=float(ordered.std(ddof=1)) / mean,
        low_ms=float(ordered[low - 1]),
        high_ms=float(ordered[high - 1]),
        coverage=coverage,
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile.

    Args:
        ordered: Samples, ascending, at least one.
        percent: 1 to 100.

    Returns:
        `ordered[ceil(n * percent / 100) - 1]`.

    Raises:
        DataError: No samples, or a percent outside 1..100.
    """
    if not ordered or not 1 <= percent <= 100:
        raise DataError(f"no {percent}th percentile of {len(ordered)} samples")
    return ordered[-(-len(ordered) * percent // 100) - 1]


def median_ranks(count: int) -> tuple[int, int, float]:
    """Choose the order statistics that hold the true median with at least 95 % probability.

    With K samples below the true median of a continuous distribution, K is Binomial(n, 1/2); the interval
    `[x_(l), x_(n+1-l)]` holds the median when l <= K <= n - l. The largest such l is taken.

    Args:
        count: Number of samples, at least six.

    Returns:
        Ranks l and n + 1 - l, counted from one, and the exact probability.

    Raises:
        DataError: Fewer than six samples: even minimum to maximum holds the median too rarely.
    """
    if count < FEWEST_FOR_INTERVAL:
        raise DataError(f"{count} samples are too few for a 95 % interval of the median")
    low = count // 2
    mass = math.exp(math.lgamma(count + 1) - math.lgamma(low + 1) - math.lgamma(count - low + 1) - count * math.log(2))
    coverage = mass * (1 if 2 * low == count else 2)
    while coverage < _CONFIDENCE:
        mass *= low / (count - low + 1)
        low -= 1
        coverage += 2 * mass
    return low, count + 1 - low, min(coverage, 1.0)


def quantiles_of(samples_ms: Sequence[float]) -> tuple[Quantile, ...]:
    """Compute every percentile of `SHARES` whose interval the samples suffice for, from p50 up to p99.9.

    Args:
        samples_ms: Milliseconds of each run, in any order; all of them are used.

    Returns:
        The percentiles with their intervals; p99 needs 368 samples, p99.9 needs 3688.
    """
    ordered = sorted(samples_ms)
    found = []
    for name, share in SHARES.items():
        ranks = quantile_ranks(len(ordered), share)
        if ranks is not None:
            low, high, coverage = ranks
            value = ordered[math.ceil(round(len(ordered) * share, 9)) - 1]
            found.append(Quantile(name, value, ordered[low - 1], ordered[high - 1], coverage))
    return tuple(found)


def quantile_ranks(count: int, share: float) -> tuple[int, int, float] | None:
    """Choose the order statistics that hold a true quantile with at least 95 % probability.

    With K samples below the true quantile of a continuous distribution, K is Binomial(n, share); the interval
    `[x_(l), x_(u)]` holds the quantile when l <= K < u. Each tail gets at most 2.5 %.

    Args:
        count: Number of samples.
        share: Share of the distribution below the quantile, in 0..1 (both excluded).

    Returns:
        Ranks l and u, counted from one, and the exact probability; None where there are too few samples.

    Raises:
        DataError: The share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise DataError(f"a quantile's share is between 0 and 1, not {share}")
    tail = (1 - _CONFIDENCE) / 2
    mass = [_binomial(count, k, share) for k in range(count + 1)]
    below, low = mass[0], 0
    while low < count and below <= tail:
        low += 1
        below += mass[low]
    above, high = mass[count], count + 1
    while high > 0 and above <= tail:
        high -= 1
        above += mass[high - 1]
    if low < 1 or high > count:
        return None
    return low, high, min(math.fsum(mass[low:high]), 1.0)


def _binomial(count: int, k: int, share: float) -> float:
    choices = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
    return math.exp(choices + k * math.log(share) + (count - k) * math.log1p(-share))
