"""Batch to batch, with bookkeeping of which rows carry a label."""

from __future__ import annotations

from collections.abc import Callable

from edgekd.core.registry import Registry
from edgekd.data import Batch

View = Callable[[Batch], Batch]

VIEWS: Registry[View] = Registry("view")


@VIEWS.register("identity")
def identity(batch: Batch) -> Batch:
    """Return the batch as it is."""
    return batch
