"""Several stores of inputs of one shape as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import DataError
from edgekd.data.inputs import InputStore, Rows, Stored


class JoinedRows:
    """The rows of several stores, one after the other.

    Args:
        stores: At least one, all of one shape.

    Raises:
        DataError: Shapes differ.
    """

    def __init__(self, stores: Sequence[InputStore]) -> None:
        shapes = sorted({store.shape for store in stores})
        if len(shapes) > 1:
            raise DataError(
                f"inputs of shapes {' and '.join(str(list(shape)) for shape in shapes)} cannot be one split"
            )
        self._stores = tuple(stores)
        self._starts = np.cumsum([0, *(len(store) for store in stores)])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every input."""
        return self._stores[0].shape

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, indices: Rows) -> Stored:
        """Return the inputs of these rows."""
        owners = self._owners(indices)
        gathered: Stored | None = None
        for owner in np.unique(owners):
            rows = self._stores[owner].gather(indices[owners == owner] - self._starts[owner])
            if gathered is None:
                gathered = np.empty((len(indices), *rows.shape[1:]), rows.dtype)
            gathered[owners == owner] = rows
        return self._stores[0].gather(indices) if gathered is None else gathered

    def fingerprint(self, indices: Rows) -> str:
        """Return a SHA-256 over those of each store's rows, which must come in the order of the stores."""
        owners = self._owners(indices)
        parts = [
            store.fingerprint(indices[owners == owner] - self._starts[owner])
            for owner, store in enumerate(self._stores)
        ]
        return sha256_of_json(["joined", parts])

    def _owners(self, indices: Rows) -> Rows:
        return np.searchsorted(self._starts[1:], indices, side="right").astype(np.int64)
