"""Refuses calibration sets that would give wrong ranges: INT8 scales are only as good as the images behind them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError

MINIMUM_IMAGES = 32
_LEAST_SPREAD = 0.02
_LEAST_VARIATION = 1e-3


def check_calibration(
    images: npt.NDArray[np.float32], input_shape: tuple[int, int, int], *, minimum: int = MINIMUM_IMAGES
) -> None:
    """Check that images can calibrate a network.

    Args:
        images: Calibration images, float32 `[n, C, H, W]` in 0..1.
        input_shape: `(C, H, W)` that the network takes.
        minimum: Fewest images accepted.

    Raises:
        DataError: Lists everything that is wrong: shape, type, number, NaN, range, no contrast, copies of one image.
    """
    if images.ndim != 4 or images.shape[1:] != input_shape or images.dtype != np.float32:
        wanted = ", ".join(map(str, input_shape))
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"calibration images are {found}; the network takes float32 [n, {wanted}]")
    problems = []
    if len(images) < minimum:
        problems.append(f"there are {len(images)} images; at least {minimum} are needed for stable ranges")
    if len(images):
        problems += _content_problems(images)
    if problems:
        raise DataError("the calibration set is unusable: " + "; ".join(problems))


def _content_problems(images: npt.NDArray[np.float32]) -> list[str]:
    if bad := int((~np.isfinite(images)).sum()):
        return [f"{bad} of {images.size} values are NaN or infinite"]
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        return [f"values run from {low:.4g} to {high:.4g}; give pixels in 0..1, normalisation is inside the network"]
    if high - low < _LEAST_SPREAD:
        return [f"values run only from {low:.4g} to {high:.4g}; the images are constant, or were scaled twice"]
    variation = float(images.std(axis=0, dtype=np.float64).mean())
    if variation < _LEAST_VARIATION:
        return [f"the images hardly differ (mean standard deviation of a pixel {variation:.2g}); give different images"]
    return []
