"""Batch to batch, with bookkeeping of which rows carry a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.core.registry import Registry
from edgekd.data import Batch
from edgekd.distill.mixing import mixes_of
from edgekd.distill.step import Step

ROTATIONS = 4
"""Rows that the view `rotations` makes of one image."""


class View(Protocol):
    """A change of a batch.

    One that makes of each row so many rows which lie together, always the same ones, says how many in `copies`, so that
    what a network gives of them can be kept.
    """

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return the changed batch; whatever is random comes from `step.generator`."""
        ...


VIEWS: Registry[Callable[..., View]] = Registry("view")
"""`builder(**options)`."""


@VIEWS.register("identity")
class Identity:
    """The batch as it is."""

    row_claim = "apart"
    copies = 1

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return the batch."""
        return batch


@VIEWS.register("rotations")
class Rotations:
    """Each image followed by itself turned by 90, 180 and 270 degrees; only the image itself stays labelled.

    Labels and ids are repeated, so that a term may rank a teacher's answers; `is_labelled` is False on turned rows.
    """

    requires = ("square pictures",)
    row_claim = "apart"
    copies = ROTATIONS

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return `4 B` rows of square pictures `[B, C, H, H]`, the four views of an image adjacent.

        Raises:
            ConfigError: The inputs are no square pictures.
        """
        if batch.inputs.dim() != 4 or batch.inputs.shape[2] != batch.inputs.shape[3]:
            raise ConfigError(
                f"rotations are of square pictures [C, H, H], these inputs are {list(batch.inputs.shape[1:])}; take a "
                "method without them, such as kd"
            )
        turned = [torch.rot90(batch.inputs, quarter, dims=(2, 3)) for quarter in range(ROTATIONS)]
        is_first = torch.arange(ROTATIONS * len(batch), device=batch.labels.device) % ROTATIONS == 0
        return Batch(
            inputs=torch.stack(turned, dim=1).flatten(0, 1),
            labels=batch.labels.repeat_interleave(ROTATIONS, dim=0),
            ids=batch.ids.repeat_interleave(ROTATIONS),
            is_labelled=batch.is_labelled.repeat_interleave(ROTATIONS) & is_first,
            host_ids=None if batch.host_ids is None else batch.host_ids.repeat_interleave(ROTATIONS),
        )


@VIEWS.register("extended")
class Extended:
    """The batch followed by convex mixes of its rows, which carry no label: class -1, id -1, `is_labelled` False.

    Teachers see exactly these rows. A student's batch statistics are those of both kinds together.

    Args:
        ratio: Mixes for each row of the batch; 0 leaves the batch as it is.
        alpha: Of the Beta distribution that shares are drawn from; 1 is uniform.

    Raises:
        ConfigError: An option out of range; when called, inputs that cannot be mixed.

    Reference:
        Pouransari et al. 2021, arXiv 2007.00051; a reconstruction.
    """

    row_claim = "together"

    def __init__(self, *, ratio: float = 1.0, alpha: float = 1.0) -> None:
        if not ratio >= 0 or not alpha > 0:
            raise ConfigError(f"extended: ratio {ratio} must not be negative and alpha {alpha} positive")
        self._ratio, self._alpha = ratio, alpha

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return `B + round(ratio B)` rows."""
        count = round(self._ratio * len(batch))
        if count == 0:
            return batch
        mixes = _unlabelled(_mixed_inputs(batch, count, self._alpha, step), batch)
        return Batch(
            torch.cat([batch.inputs, mixes.inputs]),
            torch.cat([batch.labels, mixes.labels]),
            torch.cat([batch.ids, mixes.ids]),
            torch.cat([batch.is_labelled, mixes.is_labelled]),
        )


@VIEWS.register("mixed")
class Mixed:
    """Convex mixes of the batch's rows in their place, as many and without labels (see `Extended`).

    Args:
        alpha: Of the Beta distribution that shares are drawn from; 1 is uniform.

    Raises:
        ConfigError: An option out of range; when called, inputs that cannot be mixed.

    Reference:
        Zhang et al. 2018, mixup, arXiv 1710.09412, whose labels are left out.
    """

    row_claim = "together"

    def __init__(self, *, alpha: float = 1.0) -> None:
        if not alpha > 0:
            raise ConfigError(f"mixed: alpha must be positive, got {alpha}")
        self._alpha = alpha

    def __call__(self, batch: Batch, step: Step) -> Batch:
        """Return `B` mixes."""
        return _unlabelled(_mixed_inputs(batch, len(batch), self._alpha, step), batch)


def _mixed_inputs(batch: Batch, count: int, alpha: float, step: Step) -> Tensor:
    if not batch.inputs.is_floating_point():
        raise ConfigError(
            "only pictures can be mixed; these inputs are tokens, half of one and half of another is none"
        )
    rng = np.random.default_rng(step.generator("mixes").initial_seed())
    return mixes_of(batch.inputs, count, alpha=alpha, rng=rng)


def _unlabelled(inputs: Tensor, like: Batch) -> Batch:
    count = len(inputs)
    return Batch(
        inputs,
        like.labels.new_full((count, *like.labels.shape[1:]), -1),
        like.ids.new_full((count,), -1),
        like.is_labelled.new_zeros(count),
    )
