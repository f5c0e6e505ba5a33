"""Learn one board from a handful of its own measurements, starting from what is known of its generation.

The kernel model is fitted again (`map_fit`) with the generation's numbers as the prior. Each network is then predicted
from the others, and those errors make the interval: what is printed is what to expect of the next network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from edgekd.core.artifacts import Precision
from edgekd.core.errors import DataError, TargetError
from edgekd.latency.interval import COVERAGE, size_of
from edgekd.latency.kernel_model import PARAMETER_NAMES, Floats, Hardware
from edgekd.latency.layers import KINDS, LayerGraph
from edgekd.latency.map_fit import GENERIC_PRIOR, Fit, Prior, log_predictions, log_seconds, map_fit
from edgekd.latency.parameters import (
    ChosenSet,
    KernelEntry,
    OwnFit,
    ParameterSet,
    fp16_hardware,
    parameters_for,
    require_precision,
)
from edgekd.targets import Target

FEWEST_NETWORKS = 5
"""Fewer say too little to be held out one by one."""
PRIOR_SCALE = 0.5
"""Spread of a board around its generation over the spread of generations; 1 where another generation stands in."""
LEAST_HALF_WIDTH_LOG = 0.03
"""No source repeats better than this."""

LARGEST_RATIO = 100.0
"""A latency further than this from the prediction, either way, is in seconds or microseconds, or of something else."""


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network measured on the board.

    Attributes:
        name: Its name.
        graph: Its kernels at the batch size measured.
        precision: Precision it ran at.
        p50_ms: Median.
    """

    name: str
    graph: LayerGraph
    precision: Precision
    p50_ms: float


@dataclass(frozen=True)
class NetworkError:
    """How far one network was off.

    Attributes:
        name: The network.
        measured_ms: What was measured.
        before_ms: Prediction with the parameters there were.
        held_out_ms: Prediction by a fit on all other networks.
    """

    name: str
    measured_ms: float
    before_ms: float
    held_out_ms: float


@dataclass(frozen=True)
class BoardFit:
    """The result.

    Attributes:
        fit: Parameters as a board file keeps them.
        networks: One row a measurement.
        before_mape: Mean relative error with the parameters there were.
        held_out_mape: The same, each network predicted from the others.
        before_half_width_log: Half-width of the 90 % interval of a network like these there was, in natural log.
        half_width_log: The same now.
    """

    fit: OwnFit
    networks: tuple[NetworkError, ...]
    before_mape: float
    held_out_mape: float
    before_half_width_log: float
    half_width_log: float


@dataclass(frozen=True)
class _Point:
    board: str
    device: str
    model: str
    resolution: int
    batch: int
    latency_ms: float

    @property
    def family(self) -> str:
        """Networks of one's own are not sorted into families."""
        return ""


@dataclass(frozen=True)
class _Data:
    points: tuple[_Point, ...]
    graphs: dict[tuple[str, int], LayerGraph]
    factors: Floats
    hardware: dict[str, Hardware]


def fit_board(networks: Sequence[MeasuredNetwork], target: Target) -> BoardFit:
    """Fit a board.

    Args:
        networks: Measurements on it; at least five networks.
        target: The board, in the power mode it was measured in.

    Returns:
        The fit with its errors.

    Raises:
        DataError: Too few networks, or a latency in other units than milliseconds.
        TargetError: Nothing can be predicted for the target, or not at a precision measured.
    """
    names = {network.graph.digest for network in networks}
    if len(names) < FEWEST_NETWORKS:
        raise DataError(
            f"{len(names)} network(s) in {len(networks)} measurement(s) on {target.name} are too few: measure "
            f"at least {FEWEST_NETWORKS} that differ in size and kind"
        )
    if target.kind == "cpu":
        raise TargetError(f"{target.name!r} is never predicted: build for it and measure (edgekd profile)")
    for network in networks:
        require_precision(target, network.precision)
    chosen = parameters_for(target)
    data = _data(networks, target, chosen)
    before, measured = _predicted_before(data, chosen, target), log_seconds(data.points)
    _require_milliseconds(networks, before, measured)
    prior = _prior(chosen)
    fit = map_fit(data.points, data.graphs, prior, hardware=data.hardware, factors=data.factors)
    held_out = _held_out(data, prior)
    errors = np.abs(held_out - measured)
    half_width = max(conformal_half_width(_scores(data, errors)), LEAST_HALF_WIDTH_LOG)
    calibration = chosen.parameters.calibration
    return BoardFit(
        fit=_own(fit, data, chosen, target=target, half_width=half_width, errors=held_out - measured),
        networks=tuple(
            NetworkError(network.name, network.p50_ms, 1e3 * math.exp(b), 1e3 * math.exp(h))
            for network, b, h in zip(networks, before, held_out, strict=True)
        ),
        before_mape=_mape(before - measured),
        held_out_mape=_mape(held_out - measured),
        before_half_width_log=math.hypot(calibration.model_half_width_log, calibration.family_half_width_log),
        half_width_log=half_width,
    )


def conformal_half_width(scores: Sequence[float]) -> float:
    """Return the half-width that covers a new network with 90 %.

    One score a network. With too few the conformal quantile does not exist: the largest score then grows by the ratio
    of Student's t to the normal quantile.

    Args:
        scores: Absolute log errors of networks that were not fitted, at least two.

    Returns:
        The half-width in natural log.
    """
    ordered, count = sorted(scores), len(scores)
    rank = math.ceil((count + 1) * COVERAGE)
    if rank <= count:
        return ordered[rank - 1]
    tail = 1 - (1 - COVERAGE) / 2
    return ordered[-1] * float(t.ppf(tail, count - 1) / norm.ppf(tail))


def _prior(chosen: ChosenSet) -> Prior:
    values = np.log([getattr(chosen.kernel, name) for name in PARAMETER_NAMES])
    return GENERIC_PRIOR.around(Fit(values, {}), 1.0 if chosen.transfer is not None else PRIOR_SCALE)


def _data(networks: Sequence[MeasuredNetwork], target: Target, chosen: ChosenSet) -> _Data:
    graphs, points, factors = {}, [], []
    for network in networks:
        key = (network.graph.digest, network.graph.resolution)
        graphs[key] = network.graph
        points.append(_Point(target.device, target.device, *key, network.graph.batch, network.p50_ms))
        factors.append(1.0 if network.precision == "fp16" else chosen.parameters.precisions[network.precision].factor)
    hardware = {target.device: fp16_hardware(target)}
    return _Data(tuple(points), graphs, np.array(factors), hardware)


def _predicted_before(data: _Data, chosen: ChosenSet, target: Target) -> Floats:
    values = np.log([getattr(chosen.kernel, name) for name in PARAMETER_NAMES])
    offset = chosen.parameters.device_offsets_log.get(target.device, 0.0)
    fit = Fit(values, {target.device: offset})
    return log_predictions(fit, data.points, data.graphs, hardware=data.hardware, factors=data.factors)


def _require_milliseconds(networks: Sequence[MeasuredNetwork], before: Floats, measured: Floats) -> None:
    for network, predicted, seen in zip(networks, before, measured, strict=True):
        if abs(seen - predicted) > math.log(LARGEST_RATIO):
            raise DataError(
                f"{network.name}: {network.p50_ms:.4g} ms measured, {1e3 * math.exp(predicted):.4g} ms predicted: no "
                f"board is {LARGEST_RATIO:g} times off, so this is no time of one inference in milliseconds"
            )


def _held_out(data: _Data, prior: Prior) -> Floats:
    """Predict each network `[N]` from a fit on the others; a network measured twice is left out as a whole."""
    predicted = np.empty(len(data.points))
    for model in dict.fromkeys(point.model for point in data.points):
        is_own = np.array([point.model == model for point in data.points])
        rest = [point for point in data.points if point.model != model]
        own = [point for point in data.points if point.model == model]
        fit = map_fit(rest, data.graphs, prior, hardware=data.hardware, factors=data.factors[~is_own])
        predicted[is_own] = log_predictions(fit, own, data.graphs, hardware=data.hardware, factors=data.factors[is_own])
    return predicted


def _scores(data: _Data, errors: Floats) -> list[float]:
    by_model: dict[str, float] = {}
    for point, error in zip(data.points, errors, strict=True):
        by_model[point.model] = max(by_model.get(point.model, 0.0), float(error))
    return list(by_model.values())


def _own(fit: Fit, data: _Data, chosen: ChosenSet, *, target: Target, half_width: float, errors: Floats) -> OwnFit:
    entry, calibration = chosen.parameters, chosen.parameters.calibration
    graphs = list(data.graphs.values())
    sizes = np.array([size_of(graph) for graph in graphs])
    seen = {KINDS[kind] for graph in graphs for kind in graph.columns.kind}
    ranges = [(float(low), float(high)) for low, high in zip(sizes.min(0), sizes.max(0), strict=True)]
    new_calibration = calibration.model_copy(
        update={
            "models": len(graphs),
            "points": len(data.points),
            "families": (f"measured on {target.device}",),
            "kinds": tuple(kind for kind in KINDS if kind in seen or kind in calibration.kinds),
            "model_half_width_log": round(half_width, 4),
            "family_half_width_log": 0.0,
            "log_macs": ranges[0],
            "log_kernels": ranges[1],
            "log_macs_per_kernel": ranges[2],
            "held_out_mape": round(_mape(errors), 4),
        }
    )
    parameters: ParameterSet = entry.model_copy(
        update={
            "applies_to": (target.device,),
            "measured": f"the user's own measurements of {target.device} in {target.power_mode}",
            "prior": chosen.name,
            "kernel": KernelEntry(**{n: float(f"{getattr(fit.parameters, n):.5g}") for n in PARAMETER_NAMES}),
            "device_offsets_log": {target.device: round(fit.offsets[target.device], 5)},
            "calibration": new_calibration,
            "lin4": {},
        }
    )
    names = {
        f"{data.graphs[(point.model, point.resolution)].name} {point.model[:8]}": point.latency_ms
        for point in data.points
    }
    return OwnFit(made_by="edgekd latency fit", prior=chosen.name, networks=names, parameters=parameters)


def _mape(errors: Floats) -> float:
    return float(np.abs(np.expm1(errors)).mean())
