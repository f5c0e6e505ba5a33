"""What the evidence compares: the model, and the simpler predictors it has to beat. All are fitted on given points.

On a board that was not fitted the simpler ones get the help that a data sheet gives them: their coefficients are scaled
by the ratio of the peaks (arithmetic), of the bandwidths (traffic) and of the clocks (kernels and constant).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from points import Point
from sets import Tables

from edgekd.latency.kernel_model import Floats, Hardware
from edgekd.latency.lin4 import lin4_features
from edgekd.latency.map_fit import Prior, fit_linear, graph_of, log_predictions, map_fit
from edgekd.latency.parameters import fp16_hardware
from edgekd.targets import get_target

Predictor = Callable[[Sequence[Point], Sequence[Point]], Floats]
"""Fit on the first points, return log seconds of the second."""

_LEAST_MS = 1e-3


def ops(tables: Tables, prior: Prior) -> Predictor:
    """Return the model itself under a prior."""

    def predictor(known: Sequence[Point], wanted: Sequence[Point]) -> Floats:
        return log_predictions(map_fit(known, tables.graphs, prior), wanted, tables.graphs)

    return predictor


def baselines(tables: Tables) -> dict[str, Predictor]:
    """Return LIN4, constant + MACs, and FLOPs x constant."""
    return {
        "LIN4": _linear(tables, (0, 1, 2, 3, 4)),
        "constant+MACs": _linear(tables, (0, 1)),
        "FLOPs": _linear(tables, (1,)),
    }


def _linear(tables: Tables, columns: Sequence[int]) -> Predictor:
    def features(points: Sequence[Point]) -> Floats:
        return np.array([_data_sheet_features(point, tables)[list(columns)] for point in points])

    def predictor(known: Sequence[Point], wanted: Sequence[Point]) -> Floats:
        predicted_ms = features(wanted) @ fit_linear(features(known), known)
        return np.log(np.maximum(predicted_ms, _LEAST_MS) * 1e-3)

    return predictor


def _data_sheet_features(point: Point, tables: Tables) -> Floats:
    """Features of LIN4 over what the device does a second, so that coefficients are the same for all devices `[5]`."""
    hardware: Hardware = fp16_hardware(get_target(point.device))
    clock, peak, bandwidth = hardware.clock_hz / 1e9, hardware.peak_ops_s / 1e12, hardware.bandwidth_bytes_s / 1e9
    scale = np.array([clock, peak, bandwidth, bandwidth, clock])
    return np.array(lin4_features(graph_of(point, tables.graphs))) / scale
