"""Inputs by row, whatever they are: what a split needs of them, and how stored ones become what networks take.

Pictures are stored as uint8 `[n, H, W, C]` and given to networks as float32 `[n, C, H, W]` in 0..1. Sequences of tokens
are stored as int64 `[n, L]` and given as they are.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError

Rows: TypeAlias = NDArray[np.int64]
Stored: TypeAlias = NDArray[Any]
NetInputs: TypeAlias = NDArray[Any]


class Inputs(Protocol):
    """Inputs that can be gathered by row, all of one shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every input as a network takes it: `(C, H, W)` of pictures, `(L,)` of tokens."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: Rows) -> Stored:
        """Return the inputs of these rows as they are stored, in a fresh array."""
        ...


class InputStore(Inputs, Protocol):
    """Inputs whose stored content can be fingerprinted."""

    def fingerprint(self, indices: Rows) -> str:
        """Return a SHA-256 over the stored content of these rows, in their order."""
        ...


class StoredRows:
    """Some rows of another store, without copying it.

    Args:
        store: Where the inputs lie.
        rows: int64 `[N]`, rows of `store` in the order wanted.
    """

    def __init__(self, store: InputStore, rows: Rows) -> None:
        self._store = store
        self._rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every input."""
        return self._store.shape

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, indices: Rows) -> Stored:
        """Return the inputs of these rows as they are stored."""
        return self._store.gather(self._rows[indices])

    def fingerprint(self, indices: Rows) -> str:
        """Return the underlying store's fingerprint of these rows."""
        return self._store.fingerprint(self._rows[indices])


def network_inputs(stored: Stored) -> NetInputs:
    """Convert stored inputs to what networks take.

    Args:
        stored: uint8 `[n, H, W, C]`, or int64 `[n, L]`.

    Returns:
        float32 `[n, C, H, W]`, pixels divided by 255; or the tokens.

    Raises:
        DataError: Neither of the two.
    """
    if stored.dtype == np.uint8 and stored.ndim == 4:
        return np.ascontiguousarray(stored.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
    if stored.dtype == np.int64 and stored.ndim == 2:
        return stored
    raise DataError(f"inputs are uint8 [n, H, W, C] or int64 [n, L], got {stored.dtype} {list(stored.shape)}")
