"""How far a prediction may be off: conformal half-widths, widened for what was never measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgekd.core.artifacts import Precision
from edgekd.latency.kernel_model import Floats
from edgekd.latency.layers import KINDS, Columns, Ints, LayerGraph
from edgekd.latency.parameters import CalibrationEntry, ChosenSet

COVERAGE = 0.9


@dataclass(frozen=True)
class Distance:
    """How far a network lies outside the ones the interval was calibrated on.

    Attributes:
        macs: Natural log of the ratio of its MACs to the nearest end of the range: negative below, 0 inside.
        kernels: The same for the number of kernels.
        macs_per_kernel: The same for MACs a kernel.
        uncalibrated_share: Share of the predicted time spent in kinds of kernel that were never measured.
    """

    macs: float
    kernels: float
    macs_per_kernel: float
    uncalibrated_share: float

    @property
    def below(self) -> float:
        """The largest log ratio by which it is smaller than every network measured."""
        return -min(self.macs, self.kernels, self.macs_per_kernel, 0.0)

    @property
    def above(self) -> float:
        """The largest log ratio by which it is larger."""
        return max(self.macs, self.kernels, self.macs_per_kernel, 0.0)

    @property
    def is_inside(self) -> bool:
        """Whether the network resembles the calibration set in every respect."""
        return self.below == 0 and self.above == 0 and self.uncalibrated_share < 0.05


def size_of(graph: LayerGraph) -> tuple[float, float, float]:
    """Return log MACs, log kernels and log MACs a kernel; a network without MACs counts as one of 1 MAC."""
    macs, kernels = math.log(max(graph.macs, 1)), math.log(len(graph.layers))
    return macs, kernels, macs - kernels


def distance_of(graph: LayerGraph, total_s: Floats, calibration: CalibrationEntry) -> Distance:
    """Measure how unusual a network is.

    Args:
        graph: The network.
        total_s: Predicted kernel times `[L]`.
        calibration: What the interval rests on.

    Returns:
        The distances.
    """
    macs, kernels, density = size_of(graph)
    is_seen = np.array([kind in calibration.kinds for kind in KINDS])
    unseen = total_s[~is_seen[graph.columns.kind]].sum()
    return Distance(
        macs=_outside(macs, calibration.log_macs),
        kernels=_outside(kernels, calibration.log_kernels),
        macs_per_kernel=_outside(density, calibration.log_macs_per_kernel),
        uncalibrated_share=float(unseen / total_s.sum()),
    )


def half_widths_log(chosen: ChosenSet, distance: Distance, precision: Precision) -> dict[str, float]:
    """List the independent parts of the half-width of the 90 % interval, in natural log.

    Args:
        chosen: The fit.
        distance: How unusual the network is.
        precision: Precision predicted.

    Returns:
        Half-widths by cause; their root sum of squares is the half-width of the interval.
    """
    calibration = chosen.parameters.calibration
    parts = {"model": calibration.model_half_width_log}
    if calibration.family_half_width_log > 0:
        parts["family"] = calibration.family_half_width_log
    if not chosen.is_fitted_device:
        parts["device"] = calibration.device_half_width_log
    if chosen.transfer is not None:
        parts["generation"] = chosen.transfer.half_width_log
    extrapolation = math.hypot(
        calibration.slope_below_log * distance.below, calibration.slope_above_log * distance.above
    )
    if extrapolation > 0:
        parts["extrapolation"] = extrapolation
    if distance.uncalibrated_share > 0:
        parts["unseen kernels"] = calibration.uncalibrated_half_width_log * distance.uncalibrated_share
    if precision != "fp16":
        parts["precision"] = chosen.parameters.precisions[precision].half_width_log
    return parts


def half_width_of_many_log(
    columns: Columns, owner: Ints, total_s: Floats, *, chosen: ChosenSet, precision: Precision
) -> Floats:
    """Return the half-width of the interval of many networks at once, in natural log.

    Args:
        columns: Kernels of all networks `[L]`.
        owner: Index of the network of each kernel `[L]`; every network from 0 on has some.
        total_s: Predicted kernel times `[L]`.
        chosen: The fit.
        precision: Precision predicted.

    Returns:
        `[N]`, the root sum of squares of what `half_widths_log` lists for each.
    """
    calibration = chosen.parameters.calibration
    log_macs = np.log(np.maximum(np.bincount(owner, weights=columns.macs), 1.0))
    log_kernels = np.log(np.bincount(owner))
    sizes = np.stack([log_macs, log_kernels, log_macs - log_kernels])
    ranges = np.array([calibration.log_macs, calibration.log_kernels, calibration.log_macs_per_kernel])
    below = np.maximum(ranges[:, :1] - sizes, 0.0).max(axis=0)
    above = np.maximum(sizes - ranges[:, 1:], 0.0).max(axis=0)
    is_unseen = np.array([kind not in calibration.kinds for kind in KINDS])[columns.kind]
    unseen = np.bincount(owner, weights=np.where(is_unseen, total_s, 0.0)) / np.bincount(owner, weights=total_s)
    inside = half_widths_log(chosen, Distance(0.0, 0.0, 0.0, 0.0), precision)
    squares = (calibration.slope_below_log * below) ** 2 + (calibration.slope_above_log * above) ** 2
    squares += (calibration.uncalibrated_half_width_log * unseen) ** 2
    half_width: Floats = np.sqrt(squares + sum(part**2 for part in inside.values()))
    return half_width


def _outside(value: float, bounds: tuple[float, float]) -> float:
    return min(value - bounds[0], 0.0) + max(value - bounds[1], 0.0)
