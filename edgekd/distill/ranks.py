"""The processes that train together, each on its part of every batch, and what they tell each other.

All hold the same weights. The first writes files, evaluates and reports; the others do what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from edgekd.core.errors import ProcessLost
from edgekd.data import Batch, Blend, Portion


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        index: Which it is, from 0.
        of: How many there are.
    """

    index: int = 0
    of: int = 1

    @property
    def is_main(self) -> bool:
        """Whether it is the first, which writes files and reports."""
        return self.index == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.of == 1

    @property
    def portion(self) -> Portion:
        """Its part of every batch."""
        return Portion(self.index, self.of)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a detached tensor over all processes."""
        if self.is_alone:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.of

    def agreed(self, find: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
        """Return numbers that the first process finds, in all of them."""
        if self.is_alone:
            return find()
        told: list[Any] = [find() if self.is_main else None]
        dist.broadcast_object_list(told, src=0)
        return tuple(told[0])


ALONE = Ranks()


@contextmanager
def losing_says_so(ranks: Ranks) -> Iterator[None]:
    """Turn what is raised when another process is gone into one clear message.

    Raises:
        ProcessLost: A process of the training ended or cannot be reached.
    """
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        if ranks.is_alone or not _is_loss(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ProcessLost(
            f"process {ranks.index} of {ranks.of} lost another one ({reason}); its own message says why. Run the same "
            "command again to go on from the last state kept"
        ) from error


def _is_loss(error: Exception) -> bool:
    words = ("connection", "gloo", "nccl", "timed out", "timeout", "peer", "socket", "process group")
    return isinstance(error, ConnectionError | dist.DistError) or any(word in str(error).lower() for word in words)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, of any order."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.detach().contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return summed(gradient)


class _Gather(torch.autograd.Function):
    """The rows of all processes, in their order; gradients go back to where the rows came from, summed."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return summed(gradient).chunk(dist.get_world_size())[dist.get_rank()]


def gathered(rows: Tensor) -> Tensor:
    """Return the rows `[B, ...]` of all processes, `[W B, ...]`, in a graph to those of each.

    The loss of a process is the mean over its own rows, and gradients are averaged over processes, so that the sum of
    what each contributes is what one process finds with all rows.
    """
    if rows.dtype is torch.bool:
        gathered_bytes: Tensor = _Gather.apply(rows.to(torch.uint8))  # type: ignore[no-untyped-call]
        return gathered_bytes.bool()
    together: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return together


def summed(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, in a graph to each."""
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


def gathered_batch(batch: Batch) -> Batch:
    """Return the rows of all processes as one batch."""
    blend = None
    if batch.blend is not None:
        blend = Blend(gathered(batch.blend.labels), gathered(batch.blend.shares))
    return replace(
        batch,
        inputs=gathered(batch.inputs),
        labels=gathered(batch.labels),
        ids=gathered(batch.ids),
        is_labelled=gathered(batch.is_labelled),
        blend=blend,
        host_ids=None,
    )
