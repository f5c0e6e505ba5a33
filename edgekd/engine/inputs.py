"""One check of what is fed to an engine, the same for every runner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError


@dataclass(frozen=True)
class InputShape:
    """What an engine takes.

    Attributes:
        image: `(C, H, W)`.
        min_batch: Smallest batch.
        max_batch: Largest batch; 0 means no limit.
    """

    image: tuple[int, int, int]
    min_batch: int = 1
    max_batch: int = 0

    def __str__(self) -> str:
        low, high = self.min_batch, self.max_batch
        batch = str(low) if low == high else f"{low}..{high or ''}"
        return f"[{batch}, {', '.join(map(str, self.image))}]"

    def checked(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `inputs` in C order once its type and shape are right.

        Args:
            inputs: float32 `[B, C, H, W]`.

        Raises:
            DataError: Not an array, not float32, or another shape.
        """
        if not isinstance(inputs, np.ndarray):
            raise DataError(f"the engine takes a numpy array, not {type(inputs).__name__}")
        if inputs.dtype != np.float32:
            raise DataError(f"the engine takes float32 in 0..1, not {inputs.dtype}; convert with .astype(np.float32)")
        if inputs.ndim != 4 or tuple(inputs.shape[1:]) != self.image or not self._takes(inputs.shape[0]):
            raise DataError(f"the engine takes inputs of shape {self}, not {list(inputs.shape)}")
        return np.ascontiguousarray(inputs)

    def _takes(self, batch: int) -> bool:
        return batch >= self.min_batch and (self.max_batch == 0 or batch <= self.max_batch)
