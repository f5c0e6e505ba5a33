"""What a policy remembers of each instance until it comes up again."""

from __future__ import annotations

import torch
from torch import Tensor


class Recollection:
    """Rows of numbers by instance; the table grows with the ids that it is given.

    Instances with negative ids are made for one batch and never come up again: nothing is kept of them.

    Args:
        table: `[N, W]`, the row of each instance, NaN where there is none.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def recall(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of these instances have a row, bool `[B]`, and their rows `[B, W]`."""
        self._grow(ids)
        rows = self.table[ids.clamp(min=0)]
        return (ids >= 0) & ~rows.isnan().any(dim=1), rows

    def keep(self, ids: Tensor, rows: Tensor) -> None:
        """Set the rows `[B, W]` of instances `[B]`."""
        self._grow(ids)
        self.table[ids[ids >= 0]] = rows[ids >= 0]

    def _grow(self, ids: Tensor) -> None:
        missing = max(1, int(ids.max()) + 1) - len(self.table)
        if missing > 0:
            empty = torch.full((missing, self.table.shape[1]), float("nan"))
            self.table = torch.cat([self.table, empty])
