"""Two methods run with the same seeds: mean difference, its interval, and a test that needs no normal law."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """How much better a method is than a reference, over the seeds that both have.

    Attributes:
        mean: Mean difference.
        margin: Half of the interval of the mean by Student's t at 95 %; infinite for a single seed.
        better: Seeds with which the method is better.
        seeds: Seeds that both have.
        wilcoxon_p: Two-sided p of the signed-rank test, 1 where every difference is 0. With five seeds it is never
            below 0.0625.
    """

    mean: float
    margin: float
    better: int
    seeds: int
    wilcoxon_p: float

    @property
    def verdict(self) -> str:
        """`"better"` or `"worse"` where the interval leaves 0 out, else `"-"`."""
        if abs(self.mean) <= self.margin:
            return "-"
        return "better" if self.mean > 0 else "worse"


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Paired | None:
    """Compare two methods by seed.

    Args:
        values: The method's figure by seed.
        reference: The other's.

    Returns:
        The comparison, or None when they share no seed.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = [values[seed] - reference[seed] for seed in seeds]
    better = sum(difference > 0 for difference in differences)
    return Paired(fmean(differences), _margin(differences), better, len(seeds), _signed_rank_p(differences))


def _margin(differences: list[float]) -> float:
    from scipy.stats import t

    count = len(differences)
    if count < 2:
        return math.inf
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * stdev(differences) / math.sqrt(count)


def _signed_rank_p(differences: list[float]) -> float:
    from scipy.stats import wilcoxon

    nonzero = [difference for difference in differences if difference != 0]
    return float(wilcoxon(nonzero).pvalue) if nonzero else 1.0
