"""Per-channel mean and standard deviation, exact: from counts of the 256 pixel values, never from float sums."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgekd.core.errors import DataError
from edgekd.data.images import chunks
from edgekd.data.inputs import Inputs, Rows

MAX_VALUES = 1 << 29
"""Most pixel values that statistics are taken from: 3,566 pictures of 224 x 224 in RGB."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of pixels in 0..1.

    Attributes:
        mean: By channel.
        std: By channel, of the population.
        pictures: Number of pictures they were taken from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pictures: int


def channel_statistics(images: Inputs, *, max_values: int = MAX_VALUES) -> ChannelStatistics:
    """Measure pictures; from evenly spaced ones where all of them would be more than `max_values` pixel values.

    Args:
        images: The pictures, at least one.
        max_values: Most pixel values (pictures x C x H x W) to read.

    Returns:
        Statistics and how many pictures they come from.

    Raises:
        DataError: A channel has one value everywhere, so inputs cannot be normalised by it.
    """
    rows = _evenly_spaced(len(images), max(1, max_values // max(1, math.prod(images.shape))))
    counts = np.zeros((images.shape[0], 256), np.int64)
    for chunk in chunks(rows, images.shape):
        pixels = images.gather(chunk)
        for channel in range(len(counts)):
            counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
    moments = [_moments(count) for count in counts]
    for channel, (mean, std) in enumerate(moments):
        if std == 0.0:
            raise DataError(
                f"channel {channel} is {mean:.4g} in every pixel of the training pictures: nothing to learn"
            )
    return ChannelStatistics(tuple(mean for mean, _ in moments), tuple(std for _, std in moments), len(rows))


def _moments(count: Rows) -> tuple[float, float]:
    values = list(range(256))
    total = int(count.sum())
    first = sum(int(n) * value for n, value in zip(count, values, strict=True))
    second = sum(int(n) * value * value for n, value in zip(count, values, strict=True))
    return first / total / 255, math.sqrt(total * second - first * first) / total / 255


def _evenly_spaced(length: int, most: int) -> Rows:
    if length <= most:
        return np.arange(length, dtype=np.int64)
    return np.arange(most, dtype=np.int64) * length // most
