"""Refuses calibration sets that would give wrong ranges: INT8 scales are only as good as the inputs behind them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import DataError
from edgekd.data import Dataset, NetInputs, calibration_rows, network_inputs
from edgekd.export import input_problem

MINIMUM_INPUTS = 32
_LEAST_SPREAD = 0.02
_LEAST_VARIATION = 1e-3
_LEAST_CORRELATION = 0.05
_NOISE_DEVIATIONS = 4
_LARGEST_RATIO = 10


def check_balance(strata: npt.NDArray[np.int64], of_all: npt.NDArray[np.int64]) -> None:
    """Check that the classes of calibration inputs stand for those of the data, where classes are known.

    Args:
        strata: Class of each calibration input, `[n]`.
        of_all: Class of each training input, `[N]`, where `strata` were drawn from.

    Raises:
        DataError: A class of the data is missing though there is room for each, half of them are where there is not, or
            one is there more than ten times as often as another that the data have more of.
    """
    available = np.bincount(of_all)
    counts = np.bincount(strata, minlength=len(available))
    known = np.flatnonzero(available)
    missing = [int(one) for one in known if not counts[one]]
    if 2 * (len(known) - len(missing)) < min(len(strata), len(known)) or (missing and len(strata) >= len(known)):
        raise DataError(
            f"the calibration set is unusable: {len(missing)} of {len(known)} classes are missing from its "
            f"{len(strata)} inputs ({', '.join(map(str, missing[:5]))}); draw inputs of every class"
        )
    most = int(counts.max())
    rare = [int(one) for one in known if 0 < counts[one] * _LARGEST_RATIO < most and counts[one] < available[one]]
    if rare:
        raise DataError(
            f"the calibration set is unusable: class {int(counts.argmax())} is there {most} times, class "
            f"{rare[0]} only {counts[rare[0]]} times; ranges would be those of one class, draw classes evenly"
        )


def drawn_calibration(dataset: Dataset, *, size: int, seed: int) -> NetInputs:
    """Draw calibration inputs from the training split, classes as evenly as it allows, and check that balance.

    Args:
        dataset: A loaded data set.
        size: Inputs wanted.
        seed: Root seed of the draw.

    Raises:
        ConfigError: `size` below 1.
        DataError: The classes are not balanced.
    """
    rows, strata = calibration_rows(dataset, size=size, seed=seed), dataset.task.strata(dataset.train.labels)
    if len(known := strata[dataset.train.has_label]):
        check_balance(strata[rows], known)
    return network_inputs(dataset.train.inputs.gather(rows))


def check_calibration(inputs: NetInputs, model: OnnxModel, *, minimum: int = MINIMUM_INPUTS) -> None:
    """Check that inputs can calibrate a network.

    Args:
        inputs: Calibration inputs: pictures float32 `[n, C, H, W]` in 0..1, or tokens int64 `[n, L]`.
        model: The network.
        minimum: Fewest inputs accepted.

    Raises:
        DataError: Lists all that is wrong: shape, type, number, NaN, range, no contrast, copies of one input, noise.
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
    correlation, pairs = _neighbour_correlation(images)
    if pairs and abs(correlation) < max(_LEAST_CORRELATION, _NOISE_DEVIATIONS / pairs**0.5):
        return [
            f"neighbouring pixels are unrelated (correlation {correlation:.2g}), as in random noise; give real images"
        ]
    return []


def _neighbour_correlation(images: NetInputs) -> tuple[float, int]:
    """Return the correlation of pixels with those right of and below them, and how many pairs it rests on."""
    centred = images.astype(np.float64) - images.mean(axis=(2, 3), keepdims=True)
    right, below = centred[..., 1:] * centred[..., :-1], centred[:, :, 1:] * centred[:, :, :-1]
    pairs = right.size + below.size
    if not pairs:
        return 0.0, 0
    return float((right.sum() + below.sum()) / pairs / np.square(centred).mean()), pairs
