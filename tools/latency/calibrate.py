"""Half-widths, precision factors and tails: everything of a parameter set that is not the kernel model itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from points import Point
from scipy.stats import norm, t  # type: ignore[import-untyped]

from edgekd.latency.interval import COVERAGE, size_of
from edgekd.latency.kernel_model import Floats, kernel_times
from edgekd.latency.layers import KINDS, LayerGraph
from edgekd.latency.map_fit import Fit, Graphs, Prior, graph_of, log_predictions, log_seconds, map_fit
from edgekd.latency.parameters import CalibrationEntry, PrecisionEntry, fp16_hardware
from edgekd.targets import get_target

LONE_DEVICE_HALF_WIDTH_LOG = 0.3
"""A generation with one measured board says nothing about board spread; Orin boards alone differ by up to 0.16."""
FAMILY_HALF_WIDTH_LOG = 0.19
"""Sets that saw detectors only: on AGX Orin a classifier family scored 0.24 where detectors score 0.15."""
PRECISION_FLOOR_LOG = 0.2
"""Ratios between precisions come from a few YOLO nets: never trusted better than this."""
BORROWED_PRECISION_LOG = 0.5
UNCALIBRATED_HALF_WIDTH_LOG = 1.15
"""The prior's own 90 % half-width for the efficiency of a kind of kernel."""
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


def conformal_half_width(scores: Sequence[float]) -> float:
    """Return the half-width that covers a new model with 90 %.

    One score a model. With too few models the conformal quantile does not exist: the largest score then grows by the
    ratio of Student's t to the normal quantile.
    """
    ordered, count = sorted(scores), len(scores)
    rank = math.ceil((count + 1) * COVERAGE)
    if rank <= count:
        return ordered[rank - 1]
    tail = 1 - (1 - COVERAGE) / 2
    return ordered[-1] * (float(t.ppf(tail, count - 1) / norm.ppf(tail)) if count > 1 else 6.0)


def scores_by_model(points: Sequence[Point], errors: Floats) -> dict[str, float]:
    """Return each model's 90th percentile of absolute log error."""
    found = {}
    for model in sorted({point.model for point in points}):
        own = np.abs([error for point, error in zip(points, errors, strict=True) if point.model == model])
        found[model] = float(np.quantile(own, COVERAGE))
    return found


def calibration_of(
    points: Sequence[Point], extra: Sequence[Point], graphs: Graphs, *, fit: Fit, prior: Prior
) -> CalibrationEntry:
    """Calibrate the interval of a set.

    Args:
        points: What was fitted.
        extra: What was not fitted and calibrates too.
        graphs: Their graphs.
        fit: The fit on all `points`.
        prior: The prior it used.

    Returns:
        Half-widths and ranges.
    """
    errors = held_out_errors(points, graphs, prior)
    scores = scores_by_model(points, errors)
    scores |= scores_by_model(extra, errors_of(fit, extra, graphs)) if extra else {}
    families = {point.family for point in (*points, *extra)}
    model_half_width = conformal_half_width(list(scores.values()))
    sizes = np.array([size_of(graph_of(point, graphs)) for point in (*points, *extra)])
    ranges = [
        (math.floor(low * 1e4) / 1e4, math.ceil(high * 1e4) / 1e4)
        for low, high in zip(sizes.min(0), sizes.max(0), strict=True)
    ]
    return CalibrationEntry(
        models=len(scores),
        points=len(points) + len(extra),
        families=tuple(sorted(families)),
        kinds=_seen_kinds((*points, *extra), graphs, fit),
        model_half_width_log=round(model_half_width, 4),
        family_half_width_log=0.0 if len(families) > len(_DETECTORS & families) else FAMILY_HALF_WIDTH_LOG,
        device_half_width_log=round(_device_half_width(fit), 4),
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


def _device_half_width(fit: Fit) -> float:
    offsets = np.array(list(fit.offsets.values()))
    if len(offsets) < 2:
        return LONE_DEVICE_HALF_WIDTH_LOG
    count = len(offsets)
    spread = float(np.sqrt((offsets**2).mean()))
    return max(float(t.ppf(1 - (1 - COVERAGE) / 2, count - 1)) * math.sqrt(1 + 1 / count) * spread, 0.1)


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


def _seen_kinds(points: Sequence[Point], graphs: Graphs, fit: Fit) -> tuple[str, ...]:
    share = dict.fromkeys(_KINDS_WITH_OWN_EFFICIENCY, 0.0)
    for point in points:
        columns = graph_of(point, graphs).columns
        total = kernel_times(columns, fp16_hardware(get_target(point.device)), fit.parameters).total_s
        for kind in share:
            share[kind] = max(share[kind], float(total[columns.kind == KINDS.index(kind)].sum() / total.sum()))
    unseen = {kind for kind, value in share.items() if value < _SHARE_TO_COUNT_AS_SEEN}
    return tuple(kind for kind in KINDS if kind not in unseen)


def _floor_share(point: Point, graph: LayerGraph, fit: Fit) -> float:
    times = kernel_times(graph.columns, fp16_hardware(get_target(point.device)), fit.parameters)
    fixed = fit.parameters.constant_us * 1e-6 + float(times.floor_s.sum())
    return fixed / (fixed + float((times.total_s - times.floor_s).sum()))
