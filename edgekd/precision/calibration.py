"""Refuses calibration sets that would give wrong ranges: INT8 scales are only as good as the inputs behind them."""

from __future__ import annotations

import numpy as np

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import DataError
from edgekd.data import NetInputs
from edgekd.export import input_problem

MINIMUM_INPUTS = 32
_LEAST_SPREAD = 0.02
_LEAST_VARIATION = 1e-3


def check_calibration(inputs: NetInputs, model: OnnxModel, *, minimum: int = MINIMUM_INPUTS) -> None:
    """Check that inputs can calibrate a network.

    Args:
        inputs: Calibration inputs: pictures float32 `[n, C, H, W]` in 0..1, or tokens int64 `[n, L]`.
        model: The network.
        minimum: Fewest inputs accepted.

    Raises:
        DataError: Lists everything that is wrong: shape, type, number, NaN, range, no contrast, copies of one input.
    """
    if len(inputs) and (problem := input_problem(inputs, model)):
        raise DataError(f"the calibration set is unusable: {problem}")
    problems = []
    if len(inputs) < minimum:
        problems.append(f"there are {len(inputs)} inputs; at least {minimum} are needed for stable ranges")
    if len(inputs):
        problems += _token_problems(inputs) if model.vocabulary else _picture_problems(inputs)
    if problems:
        raise DataError("the calibration set is unusable: " + "; ".join(problems))


def _token_problems(tokens: NetInputs) -> list[str]:
    if (tokens == tokens[0]).all():
        return ["all texts are the same; give different ones"]
    return []


def _picture_problems(images: NetInputs) -> list[str]:
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        return [f"values run from {low:.4g} to {high:.4g}; give pixels in 0..1, normalisation is inside the network"]
    if high - low < _LEAST_SPREAD:
        return [f"values run only from {low:.4g} to {high:.4g}; the images are constant, or were scaled twice"]
    variation = float(images.std(axis=0, dtype=np.float64).mean())
    if variation < _LEAST_VARIATION:
        return [f"the images hardly differ (mean standard deviation of a pixel {variation:.2g}); give different images"]
    return []
