"""Augmentation drawn for each sample by itself: a view of a sample is the same wherever and whenever it is seen.

Without it, what happens to a sample follows from the step and the row that it stands in. With it, the change follows
from a seed, the sample and the number of the view, so that whatever was computed of a view can be kept and found again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data.inputs import Rows

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class SampleViews:
    """The views that epochs show of samples.

    Attributes:
        seed: Root of all draws.
        count: Views of a sample, after which they come again; None shows another one in every epoch.
    """

    seed: int
    count: int | None = None

    def number(self, epoch: int) -> int:
        """Return which view an epoch shows, from 0."""
        return epoch if self.count is None else epoch % self.count

    def draws(self, epoch: int, ids: Rows) -> np.random.Generator:
        """Return what decides the augmentation of these samples in an epoch, one row of draws for each."""
        draws = RowDraws(derive_seed(self.seed, "view", self.number(epoch)), ids)
        return cast(np.random.Generator, draws)  # the part of it that changes by row can use


class RowDraws:
    """A stream of random numbers for each of some rows: splitmix64, seeded by a seed and the row.

    It has the methods of `numpy.random.Generator` that draw `n` rows of numbers for `n` rows.

    Args:
        seed: Root of the streams.
        ids: int64 `[n]`, the rows.

    Reference:
        Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """

    def __init__(self, seed: int, ids: Rows) -> None:
        self._keys = _mixed(np.uint64(seed) + ids.astype(np.uint64) * _GOLDEN)
        self._drawn = 0

    def random(self, size: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Return numbers in [0, 1) of this shape, whose first axis is the rows."""
        return (self._bits(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, low: int, high: int | None = None, size: int | tuple[int, ...] = ()) -> NDArray[np.int64]:
        """Return integers from `low` up to `high`, itself left out; below `low` where `high` is None."""
        start, stop = (0, low) if high is None else (low, high)
        span = np.uint64(stop - start)
        return start + ((self._bits(size) >> np.uint64(32)) * span >> np.uint64(32)).astype(np.int64)

    def choice(self, options: Any, size: int | tuple[int, ...]) -> NDArray[Any]:
        """Return some of the options, each as likely."""
        offered = np.asarray(options)
        chosen: NDArray[Any] = offered[self.integers(len(offered), size=size)]
        return chosen

    def __getattr__(self, name: str) -> Any:
        raise ConfigError(
            f"this augmentation draws by {name!r}, which is not there for views of samples, only random, integers and "
            "choice are: set train.teacher_cache=null and train.augment_views=null"
        )

    def _bits(self, size: int | tuple[int, ...]) -> NDArray[np.uint64]:
        shape = (size,) if isinstance(size, int) else tuple(size)
        if not shape or shape[0] != len(self._keys):
            raise ConfigError(
                f"this augmentation draws numbers of shape {shape} for {len(self._keys)} rows, so it does not change "
                "each sample by itself: set train.teacher_cache=null and train.augment_views=null"
            )
        count = math.prod(shape[1:])
        places = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64) * _GOLDEN
        self._drawn += count
        return _mixed(self._keys[:, None] + places).reshape(shape)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed
