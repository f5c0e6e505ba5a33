"""Half-widths, precision factors and tails: everything of a parameter set that is not the kernel model itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from points import Point
from scipy.stats import t

from edgekd.latency.interval import COVERAGE, size_of
from edgekd.latency.kernel_model import Floats, kernel_times
from edgekd.latency.layers import KINDS, LayerGraph
from edgekd.latency.map_fit import Fit, Graphs, Prior, graph_of, log_predictions, log_seconds, map_fit
from edgekd.latency.parameters import CalibrationEntry, PrecisionEntry, fp16_hardware
from edgekd.targets import get_target

LONE_DEVICE_HALF_WIDTH_LOG = 0.3
"""A generation with one measured board says nothing about board spread; Orin boards alone differ by up to 0.16."""
FAMILY_HALF_WIDTH_LOG = 0.19
"""Added outside the ranges of sets that saw detectors only: classifiers on AGX Orin came out up to this much slower."""
PRECISION_FLOOR_LOG = 0.2
"""Ratios between precisions come from a few YOLO nets: never trusted better than this."""
BORROWED_PRECISION_LOG = 0.5
UNCALIBRATED_HALF_WIDTH_LOG = 1.15
"""The prior's own 90 % half-width for the efficiency of a kind of kernel."""
LEAST_DEVICE_HALF_WIDTH_LOG = 0.03
DEFAULT_SLOPE_LOG = 0.1
"""For sets whose networks are all of one size."""
_SHARE_TO_COUNT_AS_SEEN = 0.02
_DETECTORS = frozenset({"yolo11", "yolo26", "yolov8", "yolov9", "yolov10"})
_KINDS_WITH_OWN_EFFICIENCY = ("conv_kxk", "conv_1x1", "conv_depthwise", "conv_grouped", "matmul_activations")


def held_out_errors(points: Sequence[Point], graphs: Graphs, prior: Prior) -> Floats:
    """Return log errors `[N]`, each model predicted from the others."""
    errors = np.empty(len(points))
    for model in sorted({point.model for point in points}):
        rows = [row for row, point in enumerate(points) if point.model == model]
        rest = [point for point in points if point.model != model]
        held_out = [points[row] for row in rows]
        errors[rows] = errors_of(map_fit(rest, graphs, prior), held_out, graphs)
    return errors


def errors_of(fit: Fit, points: Sequence[Point], graphs: Graphs) -> Floats:
    """Return log predicted over measured `[N]`."""
    return log_predictions(fit, points, graphs) - log_seconds(points)


def clustered_half_width(points: Sequence[Point], errors: Floats, *, key: Callable[[Point], str]) -> float:
    """Return the half-width that covers a point of a new group with 90 %: split conformal, corrected for grouping.

    Points of one group (a model, a board) resemble each other, so that `n` points in groups are worth only
    `n / (1 + (k - 1) icc)`, `k` the size of a group and `icc` the intraclass correlation of the absolute errors. The
    conformal quantile is taken for that many points, each group weighing the same. Fewer than nine have none: then
    it is the prediction interval of Student's t for as many normal errors, their root mean square times
    `t sqrt(1 + 1 / n)`.

    Args:
        points: Points that were not fitted.
        errors: Their log errors `[N]`.
        key: Group of a point; at least two groups.
    """
    names = [key(point) for point in points]
    groups = [np.abs(errors[[name == group for name in names]]) for group in sorted(set(names))]
    size = len(errors) / len(groups)
    independent = max(len(errors) / (1 + (size - 1) * _intraclass_correlation(groups)), len(groups))
    level = COVERAGE * (1 + 1 / independent)
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups]) / len(groups)
    if level > 1:
        quantile = float(t.ppf(1 - (1 - COVERAGE) / 2, independent - 1))
        return quantile * math.sqrt((1 + 1 / independent) * float((weights * values**2).sum()))
    order = np.argsort(values)
    reached = np.searchsorted(np.cumsum(weights[order]), level - 1e-12)
    return float(values[order][min(reached, len(values) - 1)])


def _intraclass_correlation(groups: Sequence[Floats]) -> float:
    """One-way analysis of variance; 1 where every group has a single point, 0 where groups do not differ."""
    sizes = np.array([len(group) for group in groups])
    if len(groups) < 2 or sizes.max() == 1:
        return 1.0
    total, count = np.concatenate(groups), len(groups)
    between = sum(len(group) * (group.mean() - total.mean()) ** 2 for group in groups) / (count - 1)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups) / max(len(total) - count, 1)
    size = (len(total) - (sizes**2).sum() / len(total)) / (count - 1)
    spread = between + (size - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > 0 else 0.0


def calibration_of(points: Sequence[Point], graphs: Graphs, *, fit: Fit, prior: Prior) -> CalibrationEntry:
    """Calibrate the interval of a set.

    Args:
        points: What was fitted.
        graphs: Their graphs.
        fit: The fit on all `points`.
        prior: The prior it used.

    Returns:
        Half-widths and ranges.
    """
    errors = held_out_errors(points, graphs, prior)
    families = {point.family for point in points}
    model_half_width = clustered_half_width(points, errors, key=lambda point: point.model)
    sizes = np.array([size_of(graph_of(point, graphs)) for point in points])
    shares = _kind_shares(points, graphs, fit)
    ranges = [
        (math.floor(low * 1e4) / 1e4, math.ceil(high * 1e4) / 1e4)
        for low, high in zip(sizes.min(0), sizes.max(0), strict=True)
    ]
    return CalibrationEntry(
        models=len({point.model for point in points}),
        points=len(points),
        families=tuple(sorted(families)),
        kinds=tuple(kind for kind in KINDS if shares.get(kind, 1.0) >= _SHARE_TO_COUNT_AS_SEEN),
        kind_shares={kind: round(share, 4) for kind, share in shares.items()},
        model_half_width_log=round(model_half_width, 4),
        family_half_width_log=0.0 if len(families) > len(_DETECTORS & families) else FAMILY_HALF_WIDTH_LOG,
        device_half_width_log=round(_device_half_width(points, graphs, prior, model=model_half_width), 4),
        slope_below_log=round(_extrapolation_slope(points, graphs, prior, is_below=True), 4),
        slope_above_log=round(_extrapolation_slope(points, graphs, prior, is_below=False), 4),
        uncalibrated_half_width_log=UNCALIBRATED_HALF_WIDTH_LOG,
        log_macs=ranges[0],
        log_kernels=ranges[1],
        log_macs_per_kernel=ranges[2],
        held_out_mape=round(float(np.abs(np.expm1(errors)).mean()), 4),
    )


def precision_entry(
    points: Sequence[Point], reference: Sequence[Point], graphs: Graphs, *, fit: Fit, origin: str
) -> PrecisionEntry | None:
    """Fit how kernel time above the floor scales from fp16 to another precision.

    Args:
        points: Measurements at the other precision.
        reference: fp16 measurements of the same runs.
        graphs: Their graphs.
        fit: The fp16 fit, for the share of the floor.
        origin: File that the rows come from.

    Returns:
        The factor, or `None` when no row has its fp16 counterpart.
    """
    partner = {(p.board, p.runtime, p.model, p.resolution, p.batch): p.latency_ms for p in reference}
    ratios, shares, boards = [], [], set[str]()
    for point in points:
        fp16_ms = partner.get((point.board, point.runtime, point.model, point.resolution, point.batch))
        if fp16_ms is not None:
            boards.add(point.board)
            ratios.append(point.latency_ms / fp16_ms)
            shares.append(_floor_share(point, graph_of(point, graphs), fit))
    if not ratios:
        return None
    ratio, share = np.array(ratios), np.array(shares)
    factor = float(np.median(np.maximum((ratio - share) / (1 - share), 0.05)))
    error = np.abs(np.log((share + factor * (1 - share)) / ratio))
    half_width = math.hypot(PRECISION_FLOOR_LOG, float(np.quantile(error, COVERAGE)))
    return PrecisionEntry(
        factor=round(factor, 4),
        half_width_log=round(half_width, 4),
        rows=len(ratios),
        origin=f"{len(ratios)} rows of {origin}, {', '.join(sorted(boards))}",
    )


def borrowed_precision(entries: Sequence[PrecisionEntry]) -> PrecisionEntry:
    """Return the median of other sets' factors with a wide interval."""
    factors = [entry.factor for entry in entries]
    factor = float(np.median(factors))
    spread = max(abs(math.log(other / factor)) for other in factors)
    half_width = max(BORROWED_PRECISION_LOG, spread)
    return PrecisionEntry(
        factor=round(factor, 4),
        half_width_log=round(half_width, 4),
        rows=0,
        origin="no rows for this generation: median of the others",
    )


def tail_factor(points: Sequence[Point]) -> float | None:
    """Return the 90th percentile over nets of slowest run / median, an upper estimate of p99 / p50."""
    ratios = [point.max_over_median for point in points if point.max_over_median is not None]
    return round(float(np.quantile(ratios, 0.9)), 3) if ratios else None


def board_errors(points: Sequence[Point], graphs: Graphs, prior: Prior) -> Floats:
    """Return log errors `[N]`, each device predicted from the other devices and its own data sheet."""
    errors = np.empty(len(points))
    for device in sorted({point.device for point in points}):
        rows = [row for row, point in enumerate(points) if point.device == device]
        fit = map_fit([point for point in points if point.device != device], graphs, prior)
        errors[rows] = errors_of(fit, [points[row] for row in rows], graphs)
    return errors


def _device_half_width(points: Sequence[Point], graphs: Graphs, prior: Prior, *, model: float) -> float:
    """What to add to the half-width of a new model so that a board that was not fitted is covered as well."""
    if len({point.device for point in points}) < 2:
        return LONE_DEVICE_HALF_WIDTH_LOG
    both = clustered_half_width(points, board_errors(points, graphs, prior), key=lambda point: point.board)
    return math.sqrt(max(both**2 - model**2, LEAST_DEVICE_HALF_WIDTH_LOG**2))


def _extrapolation_slope(points: Sequence[Point], graphs: Graphs, prior: Prior, *, is_below: bool) -> float:
    """Fit the larger (or smaller) half of the networks, predict the rest: error for each e-fold of MACs outside.

    Only networks at least one e-fold away count; where there are none, `DEFAULT_SLOPE_LOG` stands.
    """
    sizes = np.array([size_of(graph_of(point, graphs))[0] for point in points])
    middle = float(np.median(sizes))
    is_fitted = sizes >= middle if is_below else sizes <= middle
    outside = middle - sizes if is_below else sizes - middle
    fitted = [point for point, keep in zip(points, is_fitted, strict=True) if keep]
    far = [row for row, distance in enumerate(outside) if distance >= 1.0]
    if not far:
        return DEFAULT_SLOPE_LOG
    errors = np.abs(errors_of(map_fit(fitted, graphs, prior), [points[row] for row in far], graphs))
    return float(np.quantile(errors / outside[far], COVERAGE))


def _kind_shares(points: Sequence[Point], graphs: Graphs, fit: Fit) -> dict[str, float]:
    """Return the largest share of a network's time that each kind with an efficiency of its own has."""
    share = dict.fromkeys(_KINDS_WITH_OWN_EFFICIENCY, 0.0)
    for point in points:
        columns = graph_of(point, graphs).columns
        total = kernel_times(columns, fp16_hardware(get_target(point.device)), fit.parameters).total_s
        for kind in share:
            share[kind] = max(share[kind], float(total[columns.kind == KINDS.index(kind)].sum() / total.sum()))
    return share


def _floor_share(point: Point, graph: LayerGraph, fit: Fit) -> float:
    times = kernel_times(graph.columns, fp16_hardware(get_target(point.device)), fit.parameters)
    fixed = fit.parameters.constant_us * 1e-6 + float(times.floor_s.sum())
    return fixed / (fixed + float((times.total_s - times.floor_s).sum()))
