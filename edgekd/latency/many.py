"""Thousands of candidates at once: medians and intervals of many networks as arrays, for a search to rank and prune.

The figures are those of `edgekd.latency.predict`, without the explanation that goes with each report.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekd.core.artifacts import Precision
from edgekd.core.errors import DataError
from edgekd.latency.interval import COVERAGE, half_width_of_many_log
from edgekd.latency.kernel_model import Floats
from edgekd.latency.layers import Columns, Ints
from edgekd.latency.predict import scaled_times
from edgekd.targets import Target


@dataclass(frozen=True)
class CandidateTimes:
    """Predicted latencies of candidates `[N]`, never measurements.

    Attributes:
        p50_ms: Medians.
        low_ms: Lower ends of the 90 % intervals.
        high_ms: Upper ends.
        p99_ms: Upper estimates of the 99th percentile, what a budget is held against.
        coverage: What the intervals cover.
    """

    p50_ms: Floats
    low_ms: Floats
    high_ms: Floats
    p99_ms: Floats
    coverage: float = COVERAGE


def predict_columns(columns: Columns, owner: Ints, target: Target, precision: Precision) -> CandidateTimes:
    """Predict many networks at once.

    Args:
        columns: Kernels of all networks `[L]`, as `GraphTemplate.columns_at` gives them.
        owner: Index of the network of each kernel `[L]`; every network from 0 on has at least one.
        target: The device.
        precision: Precision predicted.

    Returns:
        The same figures as `predict` gives for each.

    Raises:
        DataError: There are no kernels, or a network has none.
        TargetError: As for `predict`.
    """
    kernels = np.bincount(owner) if len(owner) else np.zeros(1)
    if not kernels.all():
        raise DataError("nothing to predict: a network has no kernels")
    chosen, times, constant_s = scaled_times(columns, target, precision)
    p50_ms = np.asarray(1e3 * (constant_s + np.bincount(owner, weights=times.total_s)), dtype=np.float64)
    half_width = half_width_of_many_log(columns, owner, times.total_s, chosen=chosen, precision=precision)
    high_ms = p50_ms * np.exp(half_width)
    return CandidateTimes(
        p50_ms=p50_ms,
        low_ms=p50_ms * np.exp(-half_width),
        high_ms=high_ms,
        p99_ms=high_ms * chosen.parameters.tail_factor,
    )
