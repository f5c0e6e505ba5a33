"""How fast networks run on this CPU, learnt from about ten of them measured here: predicted, and labelled so.

There is no fitted model of CPUs: they differ too much. So a machine is calibrated before a search on it. The time of a
network is a sum over its kernels: a launch floor and a smooth maximum of arithmetic and traffic, arithmetic by class of
kernel and on channels padded to whole vectors. What is fitted is the logarithm of each rate relative to a prior, by
least squares on log error with a robust loss: one rate of everything freely, the rates among themselves timidly, since
ten points cannot tell them all apart. The interval is the spread of the calibration networks' own errors when each is
left out of the fit in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgekd.core.artifacts import LatencyReport
from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import DataError
from edgekd.latency.kernel_model import Floats
from edgekd.latency.layers import Layer, LayerGraph

BACKEND = "edgekd.latency CPU calibration"
FEWEST = 6
_CLASSES = ("kxk", "1x1", "gemm", "depthwise", "grouped")
_PRIOR_RATES = {  # multiply-accumulates a second of one core, and elements moved a second
    "kxk": 2e10,
    "1x1": 2e10,
    "gemm": 4e9,
    "depthwise": 4e9,
    "grouped": 4e9,
    "traffic": 2e9,
    "weights": 4e9,
    "other": 1e9,
    "copy": 5e8,
}
_PRIOR_FLOOR_S, _PRIOR_CONSTANT_S = 2e-6, 1e-5
_NAMES = (*_PRIOR_RATES, "floor", "constant")
_VECTOR = 16
_FEW_CHANNELS = 9  # of its input, a convolution runs without padding them to whole vectors
_LOOSENESS = {"scale": 3.0, "rate": 0.7}
_SHARPNESS = 2.0
_COVERAGE = 0.9


@dataclass(frozen=True)
class CpuPoint:
    """A network measured on this machine.

    Attributes:
        graph: Its kernels.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        name: Its name.
    """

    graph: LayerGraph
    p50_ms: float
    p99_ms: float
    name: str = ""

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        layers = [list(layer.shape_key) for layer in self.graph.layers]
        return {"name": self.name, "p50_ms": self.p50_ms, "p99_ms": self.p99_ms, "layers": layers}

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> CpuPoint:
        """Read what `document` returned."""
        layers = tuple(Layer(*key) for key in document["layers"])
        graph = LayerGraph(document["name"], 1, layers)
        return cls(graph, float(document["p50_ms"]), float(document["p99_ms"]), document["name"])


@dataclass(frozen=True)
class CpuModel:
    """A calibrated CPU.

    Attributes:
        thetas: Natural log of each time constant relative to its prior, in the order of the model.
        half_width_log: Natural log of the half-width of the 90 % interval of the median.
        tail: What the 99th percentile adds to the median: milliseconds, a share of it, and the factor with which three
            quarters of the networks measured stay below.
        points: The networks measured.
        errors_log: Log error of each when it is left out of the fit.
    """

    thetas: tuple[float, ...]
    half_width_log: float
    tail: tuple[float, float, float]
    points: tuple[CpuPoint, ...]
    errors_log: tuple[float, ...]

    @cached_property
    def digest(self) -> str:
        """Content digest."""
        return sha256_of_json(["CpuModel", self.document()])

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "thetas": dict(zip(_NAMES, self.thetas, strict=True)),
            "half_width_log": self.half_width_log,
            "tail": list(self.tail),
            "points": [point.document() for point in self.points],
            "errors_log": list(self.errors_log),
        }

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> CpuModel:
        """Read what `document` returned; raises `DataError` when it is something else."""
        try:
            return cls(
                tuple(float(document["thetas"][name]) for name in _NAMES),
                float(document["half_width_log"]),
                _three(document["tail"]),
                tuple(CpuPoint.of_document(point) for point in document["points"]),
                tuple(map(float, document["errors_log"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"a recorded calibration of this CPU cannot be read: {error!r}") from error

    def predict(self, graph: LayerGraph) -> LatencyReport:
        """Predict the latency of a network on the machine that was calibrated.

        Args:
            graph: Its kernels at batch 1.

        Returns:
            A report of kind `"predicted"`.

        Raises:
            DataError: The network has no kernels.
        """
        p50_ms = 1e3 * _seconds(_features(graph), np.array(self.thetas))
        high_ms = p50_ms * math.exp(self.half_width_log)
        added, share, factor = self.tail
        conditions = {
            "statement": "predicted, not measured",
            "interval_coverage": _COVERAGE,
            "calibration_models": len(self.points),
            "half_width_log": {"left out": round(self.half_width_log, 4)},
            "p99_estimate": f"upper end + {added:.3g} ms + {share:.1%}, x {factor:.3g}; 3 of 4 measured lie below",
            "p99_expected_ms": self._p99_ms(p50_ms),
            "gmacs": graph.macs / 1e9,
            "layers": len(graph.layers),
        }
        return LatencyReport(
            kind="predicted",
            target="cpu",
            precision="fp32",
            backend=BACKEND,
            p50_ms=p50_ms,
            p99_ms=self._p99_ms(high_ms),
            low_ms=p50_ms * math.exp(-self.half_width_log),
            high_ms=high_ms,
            conditions=conditions,
            parents=(graph.digest, self.digest),
        )

    def _p99_ms(self, p50_ms: float) -> float:
        added, share, factor = self.tail
        return max(p50_ms, factor * (p50_ms * (1 + share) + added))


def calibrate_cpu(points: Sequence[CpuPoint]) -> CpuModel:
    """Learn a machine from networks measured on it.

    Args:
        points: About ten, spread over the space of interest.

    Returns:
        The model, with the error of each point when it is left out.

    Raises:
        DataError: Too few points, or a latency that is not positive and finite.
    """
    if len(points) < FEWEST:
        raise DataError(f"{len(points)} measured networks are too few to calibrate a CPU, {FEWEST} are needed")
    wrong = [point.name for point in points if not (math.isfinite(point.p50_ms) and point.p50_ms > 0)]
    if wrong:
        raise DataError(f"measured latencies must be positive and finite: {', '.join(wrong)}")
    features = [_features(point.graph) for point in points]
    logs = np.log([point.p50_ms * 1e-3 for point in points])
    errors = []
    for left_out in range(len(points)):
        others = [place for place in range(len(points)) if place != left_out]
        thetas = _fitted([features[place] for place in others], logs[others])
        errors.append(math.log(_seconds(features[left_out], thetas)) - float(logs[left_out]))
    return CpuModel(
        thetas=tuple(map(float, _fitted(features, logs))),
        half_width_log=_half_width(errors),
        tail=_tail(points),
        points=tuple(points),
        errors_log=tuple(errors),
    )


def _tail(points: Sequence[CpuPoint]) -> tuple[float, float, float]:
    """Split what the 99th percentile adds into a part of its own (interruptions) and a share of the median."""
    from scipy.optimize import nnls

    p50, p99 = (np.array([getattr(point, name) for point in points]) for name in ("p50_ms", "p99_ms"))
    rows = np.stack([np.ones(len(points)), p50], axis=1) / p99[:, None]
    (added, share), _ = nnls(rows, (p99 - p50) / p99)
    factor = float(np.quantile(p99 / (p50 * (1 + share) + added), 0.75))
    return float(added), float(share), factor


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    added, share, factor = map(float, values)
    return added, share, factor


def refit_cpu(model: CpuModel, points: Sequence[CpuPoint]) -> CpuModel:
    """Learn a machine again, from what it was learnt from and networks measured since.

    Args:
        model: What was known.
        points: Networks measured since; one that was measured before replaces its older measurement.
    """
    known = {(point.name, point.graph.digest): point for point in (*model.points, *points)}
    return calibrate_cpu(tuple(known.values()))


def _half_width(errors: Sequence[float]) -> float:
    """Return the conformal half-width: the order statistic that a new error exceeds with 10 %, or beyond the last."""
    ordered = sorted(map(abs, errors))
    rank = math.ceil(_COVERAGE * (len(ordered) + 1))
    spread = 1.0 if rank <= len(ordered) else 1.25
    return max(0.02, spread * ordered[min(rank, len(ordered)) - 1])


@dataclass(frozen=True)
class _Features:
    work_s: Floats  # [L, 5] seconds of arithmetic by class of kernel, at the prior rates
    traffic_s: Floats  # [L, 4] of moving activations and weights, of kernels without arithmetic, and of copies


def _features(graph: LayerGraph) -> _Features:
    if not graph.layers:
        raise DataError(f"nothing to predict: {graph.name} has no kernels")
    columns = graph.columns
    kinds = {
        "kxk": columns.is_kind("conv_kxk"),
        "1x1": columns.is_kind("conv_1x1"),
        "gemm": columns.is_kind("gemm_weights", "matmul_activations"),
        "depthwise": columns.is_kind("conv_depthwise"),
        "grouped": columns.is_kind("conv_grouped"),
    }
    area = np.maximum(columns.kernel_area, 1)
    inner = columns.gemm_k // area
    padded_inner = area * np.where(inner < _FEW_CHANNELS, inner, _up(inner))
    padded = columns.gemm_m * np.maximum(columns.groups, 1) * padded_inner * _up(columns.gemm_n)
    depthwise = columns.gemm_m * columns.gemm_k * _up(np.maximum(columns.groups, 1))
    is_depthwise = kinds["depthwise"]
    macs = np.where(is_depthwise, depthwise, padded).astype(np.float64)
    work = np.stack([macs * kinds[name] / _PRIOR_RATES[name] for name in _CLASSES], axis=1)
    moved = (columns.in_elems + columns.out_elems).astype(np.float64)
    is_product, is_copy = columns.gemm_k > 0, columns.is_kind("copy_or_gather", "concat")
    parts = {
        "traffic": moved * is_product,
        "weights": columns.weight_elems.astype(np.float64),
        "other": moved * ~(is_product | is_copy),
        "copy": moved * is_copy,
    }
    return _Features(work, np.stack([part / _PRIOR_RATES[name] for name, part in parts.items()], axis=1))


def _up(channels: Any) -> Any:
    return -(-channels // _VECTOR) * _VECTOR


def _seconds(features: _Features, thetas: Floats) -> float:
    factors = np.exp(thetas)
    work = features.work_s @ factors[: len(_CLASSES)]
    traffic = features.traffic_s @ factors[len(_CLASSES) : len(_PRIOR_RATES)]
    kernels = (work**_SHARPNESS + traffic**_SHARPNESS) ** (1 / _SHARPNESS) + _PRIOR_FLOOR_S * factors[-2]
    return float(kernels.sum() + _PRIOR_CONSTANT_S * factors[-1])


def _fitted(features: Sequence[_Features], logs: Floats) -> Floats:
    """Fit the logs of the time constants: one common factor freely, each one's own deviation timidly."""
    from scipy.optimize import least_squares

    count = len(_NAMES)
    prior = np.array([1 / _LOOSENESS["scale"], *[1 / _LOOSENESS["rate"]] * count])

    def residuals(parameters: Floats) -> Floats:
        thetas = parameters[0] + parameters[1:]
        misfit = [math.log(_seconds(one, thetas)) - log for one, log in zip(features, logs, strict=True)]
        return np.concatenate([np.array(misfit) / 0.05, parameters * prior])

    result = least_squares(residuals, np.zeros(count + 1), loss="soft_l1", method="trf")
    fitted: Floats = result.x[0] + result.x[1:]
    return fitted
