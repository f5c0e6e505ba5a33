"""Batch to batch, with bookkeeping of which rows carry a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from edgekd.core.registry import Registry
from edgekd.data import Batch
from edgekd.distill.step import Step

ROTATIONS = 4
"""Rows that the view `rotations` makes of one image."""


class View(Protocol):
    """A change of a batch."""

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return the changed batch; whatever is random comes from `step.generator`."""
        ...


VIEWS: Registry[Callable[..., View]] = Registry("view")
"""`builder(**options)`."""


@VIEWS.register("identity")
class Identity:
    """The batch as it is."""

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return the batch."""
        return batch


@VIEWS.register("rotations")
class Rotations:
    """Each image followed by itself turned by 90, 180 and 270 degrees; only the image itself stays labelled.

    Labels and ids are repeated, so that a term may rank a teacher's answers; `is_labelled` is False on turned rows.
    """

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return `4 B` rows of square pictures `[B, C, H, H]`, the four views of an image adjacent."""
        turned = [torch.rot90(batch.inputs, quarter, dims=(2, 3)) for quarter in range(ROTATIONS)]
        is_first = torch.arange(ROTATIONS * len(batch), device=batch.labels.device) % ROTATIONS == 0
        return Batch(
            inputs=torch.stack(turned, dim=1).flatten(0, 1),
            labels=batch.labels.repeat_interleave(ROTATIONS, dim=0),
            ids=batch.ids.repeat_interleave(ROTATIONS),
            is_labelled=batch.is_labelled.repeat_interleave(ROTATIONS) & is_first,
        )
