"""Maximum a posteriori fit of the kernel model: robust log error against priors, board offsets estimated along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import least_squares, nnls

from edgekd.latency.kernel_model import (
    PARAMETER_NAMES,
    Floats,
    Hardware,
    KernelParameters,
    kernel_times,
    latencies_s,
)
from edgekd.latency.layers import Columns, Ints, LayerGraph, concatenated, with_batch
from edgekd.latency.lin4 import lin4_entry, lin4_features
from edgekd.latency.parameters import Lin4Entry, fp16_hardware
from edgekd.targets import get_target

Graphs = Mapping[tuple[str, int], LayerGraph]


class MeasuredPoint(Protocol):
    """One measured latency of a known graph on one board."""

    @property
    def board(self) -> str:
        """Name of the board."""
        ...

    @property
    def device(self) -> str:
        """Target whose hardware it has."""
        ...

    @property
    def model(self) -> str:
        """Name of the model; with the resolution, key of its graph."""
        ...

    @property
    def resolution(self) -> int:
        """Input height."""
        ...

    @property
    def batch(self) -> int:
        """Batch size."""
        ...

    @property
    def latency_ms(self) -> float:
        """Median, where known."""
        ...


NOISE_LOG = 0.06
"""Repeats and sources differ by a few per cent; errors beyond this count linearly, not squared."""
OFFSET_SD_LOG = 0.1
"""Boards of one generation differ by about this much from their data sheets."""


@dataclass(frozen=True)
class Prior:
    """What is believed before the data: independent normals on the log of each parameter `[P]`."""

    log_mean: Floats
    log_sd: Floats

    @classmethod
    def of(cls, values: Mapping[str, tuple[float, float]]) -> Prior:
        """Build from `{name: (median, sd of the log)}`."""
        rows = np.array([values[name] for name in PARAMETER_NAMES])
        return cls(np.log(rows[:, 0]), rows[:, 1])

    def around(self, fit: Fit, scale: float) -> Prior:
        """Return a prior centred on another fit, its spreads multiplied by `scale`."""
        return Prior(fit.log_values, self.log_sd * scale)


@dataclass(frozen=True)
class Fit:
    """The result.

    Attributes:
        log_values: Log of each parameter `[P]`.
        offsets: Log bias of each board that was fitted.
    """

    log_values: Floats
    offsets: Mapping[str, float]

    @property
    def parameters(self) -> KernelParameters:
        """The kernel model's numbers."""
        return KernelParameters(*map(float, np.exp(self.log_values)))


# Spec sheet and the medians of latency.md section 2b; grouped and depthwise from the T4 classification networks.
GENERIC_PRIOR = Prior.of(
    {
        "eff_kxk": (0.5, 0.3),
        "eff_1x1": (0.5, 0.3),
        "eff_depthwise": (0.05, 0.7),
        "eff_grouped": (0.06, 0.7),
        "eff_matmul": (0.3, 0.7),
        "eff_bandwidth": (0.4, 0.4),
        "l2_gain": (1.5, 0.5),
        "floor_cycles": (13000.0, 0.5),
        "light_share": (0.3, 0.7),
        "constant_us": (100.0, 1.0),
        "occupancy_exponent": (0.5, 0.5),
        "tail_exponent": (0.3, 0.7),
    }
)


@dataclass(frozen=True)
class _Board:
    name: str
    hardware: Hardware
    columns: Columns
    graph: Ints
    rows: Ints
    factors: Floats


def map_fit(
    points: Sequence[MeasuredPoint],
    graphs: Graphs,
    prior: Prior,
    *,
    hardware: Mapping[str, Hardware] | None = None,
    factors: Floats | None = None,
) -> Fit:
    """Fit one generation.

    Args:
        points: Measurements.
        graphs: Their graphs.
        prior: Belief before the data.
        hardware: At fp16, by device, of devices that are no built-in targets.
        factors: Time above the floors over that at fp16 of each point `[N]`; 1 where not given.

    Returns:
        The most probable parameters and board offsets.
    """
    boards = _by_board(points, graphs, hardware or {}, factors)
    measured = log_seconds(points)
    count = len(PARAMETER_NAMES)

    def residuals(state: Floats) -> Floats:
        offsets = state[count:]
        predicted = _predicted(boards, KernelParameters(*np.exp(state[:count])), offsets, len(points))
        error = (predicted - measured) / NOISE_LOG
        robust = np.sign(error) * np.sqrt(2 * (np.sqrt(1 + error**2) - 1))
        return np.concatenate([robust, (state[:count] - prior.log_mean) / prior.log_sd, offsets / OFFSET_SD_LOG])

    start = np.concatenate([prior.log_mean, np.zeros(len(boards))])
    solution = least_squares(residuals, start, diff_step=1e-4, xtol=1e-5, ftol=1e-6).x
    return Fit(solution[:count], {board.name: float(x) for board, x in zip(boards, solution[count:], strict=True)})


def log_predictions(
    fit: Fit,
    points: Sequence[MeasuredPoint],
    graphs: Graphs,
    *,
    hardware: Mapping[str, Hardware] | None = None,
    factors: Floats | None = None,
) -> Floats:
    """Predict points `[N]` as log seconds; a board that was not fitted has no offset. Arguments as for `map_fit`."""
    boards = _by_board(points, graphs, hardware or {}, factors)
    offsets = np.array([fit.offsets.get(board.name, 0.0) for board in boards])
    return _predicted(boards, fit.parameters, offsets, len(points))


def log_seconds(points: Sequence[MeasuredPoint]) -> Floats:
    """Return the measurements `[N]` as log seconds."""
    return np.log([point.latency_ms * 1e-3 for point in points])


def fit_lin4(points: Sequence[MeasuredPoint], graphs: Graphs) -> Lin4Entry:
    """Fit LIN4 to one board: non-negative least squares on relative error."""
    return lin4_entry(fit_linear(np.array([lin4_features(graph_of(point, graphs)) for point in points]), points))


def fit_linear(features: Floats, points: Sequence[MeasuredPoint]) -> Floats:
    """Solve for non-negative coefficients `[F]` of features `[N, F]`, least squares on relative error."""
    measured = np.array([point.latency_ms for point in points])
    coefficients, _ = nnls(features / measured[:, None], np.ones(len(points)))
    return np.asarray(coefficients, dtype=np.float64)


def graph_of(point: MeasuredPoint, graphs: Graphs) -> LayerGraph:
    """Return the graph of a point at its batch size."""
    return with_batch(graphs[(point.model, point.resolution)], point.batch)


def _by_board(
    points: Sequence[MeasuredPoint], graphs: Graphs, hardware: Mapping[str, Hardware], factors: Floats | None
) -> list[_Board]:
    boards = []
    for name in sorted({point.board for point in points}):
        rows = [row for row, point in enumerate(points) if point.board == name]
        columns, graph = concatenated([graph_of(points[row], graphs).columns for row in rows])
        device = points[rows[0]].device
        own = hardware[device] if device in hardware else fp16_hardware(get_target(device))
        scale = np.ones(len(rows)) if factors is None else factors[rows]
        boards.append(_Board(name, own, columns, graph, np.array(rows), scale))
    return boards


def _predicted(boards: Sequence[_Board], parameters: KernelParameters, offsets: Floats, count: int) -> Floats:
    predicted = np.empty(count)
    for board, offset in zip(boards, offsets, strict=True):
        times = kernel_times(board.columns, board.hardware, parameters)
        scaled = times.floor_s + board.factors[board.graph] * (times.total_s - times.floor_s)
        seconds = latencies_s(scaled, board.graph, len(board.rows), parameters)
        predicted[board.rows] = np.log(seconds) + offset
    return predicted
