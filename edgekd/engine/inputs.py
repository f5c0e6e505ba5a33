"""One check of what is fed to an engine, the same for every runner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.core.errors import DataError
from edgekd.data import NetInputs


@dataclass(frozen=True)
class InputShape:
    """What an engine takes.

    Attributes:
        sample: `(C, H, W)` of a picture, or `(L,)` of a text.
        min_batch: Smallest batch.
        max_batch: Largest batch; 0 means no limit.
    """

    sample: tuple[int, ...]
    min_batch: int = 1
    max_batch: int = 0

    def __str__(self) -> str:
        low, high = self.min_batch, self.max_batch
        batch = str(low) if low == high else f"{low}..{high or ''}"
        return f"[{batch}, {', '.join(map(str, self.sample))}]"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the inputs: float32 of pictures, int64 of tokens."""
        return np.dtype(np.int64 if len(self.sample) == 1 else np.float32)

    def checked(self, inputs: NetInputs) -> NetInputs:
        """Return `inputs` in C order once its type and shape are right.

        Args:
            inputs: Pictures float32 `[B, C, H, W]`, or tokens int64 `[B, L]`.

        Raises:
            DataError: Not an array, or of another type or shape.
        """
        if not isinstance(inputs, np.ndarray):
            raise DataError(f"the engine takes a numpy array, not {type(inputs).__name__}")
        if inputs.dtype != self.dtype:
            words = "int64 token numbers" if self.dtype == np.int64 else "float32 in 0..1"
            raise DataError(f"the engine takes {words}, not {inputs.dtype}; convert with .astype(np.{self.dtype})")
        is_batch = inputs.ndim == 1 + len(self.sample)
        if not is_batch or tuple(inputs.shape[1:]) != self.sample or not self._takes(inputs.shape[0]):
            raise DataError(f"the engine takes inputs of shape {self}, not {list(inputs.shape)}")
        return np.ascontiguousarray(inputs)

    def _takes(self, batch: int) -> bool:
        return batch >= self.min_batch and (self.max_batch == 0 or batch <= self.max_batch)
