"""Batch to batch, with bookkeeping of which rows carry a label."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgekd.core.registry import Registry
from edgekd.data import Batch

ROTATIONS = 4
"""Rows that the view `rotations` makes of one image."""

View = Callable[[Batch], Batch]

VIEWS: Registry[View] = Registry("view")


@VIEWS.register("identity")
def identity(batch: Batch) -> Batch:
    """Return the batch as it is."""
    return batch


@VIEWS.register("rotations")
def rotations(batch: Batch) -> Batch:
    """Follow each image by itself turned by 90, 180 and 270 degrees; only the image itself stays labelled.

    Labels and ids are repeated, so that a term may rank a teacher's answers; `is_labelled` is False on turned rows.

    Args:
        batch: Square pictures `[B, C, H, H]`.

    Returns:
        A batch of `4 B` rows, the four views of an image adjacent.
    """
    turned = [torch.rot90(batch.inputs, quarter, dims=(2, 3)) for quarter in range(ROTATIONS)]
    is_first = torch.arange(ROTATIONS * len(batch), device=batch.labels.device) % ROTATIONS == 0
    return Batch(
        inputs=torch.stack(turned, dim=1).flatten(0, 1),
        labels=batch.labels.repeat_interleave(ROTATIONS),
        ids=batch.ids.repeat_interleave(ROTATIONS),
        is_labelled=batch.is_labelled.repeat_interleave(ROTATIONS) & is_first,
    )
