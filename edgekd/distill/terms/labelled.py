"""How terms that read labels treat rows that have none: they count nothing, and the mean is over the others."""

from __future__ import annotations

from torch import Tensor

from edgekd.data import IGNORED, Batch


def safe_labels(batch: Batch) -> Tensor:
    """Return labels `[B]` that can index classes in every row, 0 where the row has none."""
    return batch.labels.where(batch.is_labelled, 0)


def safe_maps(batch: Batch) -> Tensor:
    """Return labels `[B, H, W]` in which every pixel of a row without a label is ignored."""
    return batch.labels.where(batch.is_labelled[:, None, None], IGNORED)


def over_labelled(values: Tensor, batch: Batch) -> Tensor:
    """Return values `[B]` with 0 in rows without a label, scaled so that the mean is over labelled rows."""
    labelled = batch.is_labelled.to(values.dtype)
    return values * labelled * (len(labelled) / labelled.sum().clamp(min=1))
