"""Training pictures that stay on the device as bytes: batches are gathered, changed and converted there.

The draws are those of `train_batches`, so that both give the same batches; an epoch's draws travel at once, and no
step waits for the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.data.augment import Augment, Unchanged
from edgekd.data.batches import WHOLE, Batch, Portion, epoch_order, step_draws
from edgekd.data.dataset import Split
from edgekd.data.inputs import Rows
from edgekd.data.sample_views import SampleViews


@runtime_checkable
class Mover(Protocol):
    """A change that only moves pixels."""

    @property
    def padding(self) -> int:
        """Pixels of zeros added on every side before moving."""
        ...

    def places(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Return the row `[n, H]` and the column `[n, W]` of the padded pictures that each pixel comes from.

        Args:
            shape: `(n, H, W, C)`.
            rng: The only source of chance.
        """
        ...


class ResidentSplit:
    """A split of classified pictures on a device.

    Args:
        split: The split; all its pictures are copied.
        augment: The change of each batch, one that moves pixels or none.
        device: Where they stay.

    Raises:
        ConfigError: Inputs are no pictures, labels are maps, or the change does more than move pixels.
    """

    def __init__(self, split: Split, augment: Augment, device: torch.device) -> None:
        if len(split.inputs.shape) != 3 or split.task.is_dense:
            raise ConfigError("only pictures with one label each can stay on the device: set train.resident=false")
        if not isinstance(augment, Mover | Unchanged):
            raise ConfigError(
                f"augmentation {type(augment).__name__} does more than move pixels, so it runs on the host only: "
                "set train.resident=false"
            )
        rows = np.arange(len(split), dtype=np.int64)
        self._pictures = torch.from_numpy(split.inputs.gather(rows)).to(device)
        self._labels = torch.from_numpy(split.labels).to(device)
        self._has_label = torch.from_numpy(split.has_label).to(device)
        self._mixing = split.mixing
        self._mover = augment if isinstance(augment, Mover) else None

    def batches(
        self,
        *,
        batch_size: int,
        epoch: int,
        seed: int,
        first: int = 0,
        portion: Portion = WHOLE,
        views: SampleViews | None = None,
    ) -> Iterator[Batch]:
        """Yield one epoch as `train_batches` does, on the device.

        Args:
            batch_size: Pictures in a batch.
            epoch: Number of the epoch; with `seed` it decides order and augmentation.
            seed: Root seed.
            first: Batches to leave out at the start of the epoch.
            portion: Part of each batch to make.
            views: Draw the change of each sample by itself, as this view of it.
        """
        order = epoch_order(len(self._labels), batch_size=batch_size, epoch=epoch, seed=seed, mixing=self._mixing)
        ids = torch.from_numpy(order).to(self._labels.device)
        places = self._places(order, batch_size, epoch, seed, views)
        for start in range(first * batch_size, len(order), batch_size):
            own = portion.rows(min(batch_size, len(order) - start))
            rows = slice(start + own.start, start + own.stop)
            pictures = self._pictures[ids[rows]]
            if self._mover is not None:
                pictures = _moved(pictures, *(place[rows].long() for place in places), padding=self._mover.padding)
            # `contiguous()` leaves the strides of one-channel pictures as they are, and those choose the kernels.
            inputs = pictures.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
            host_ids = torch.from_numpy(order[rows])
            yield Batch(inputs, self._labels[ids[rows]], ids[rows], self._has_label[ids[rows]], host_ids=host_ids)

    def _places(
        self, order: Rows, batch_size: int, epoch: int, seed: int, views: SampleViews | None
    ) -> tuple[Tensor, ...]:
        if self._mover is None:
            return ()
        drawn = []
        for step, start in enumerate(range(0, len(order), batch_size)):
            ids = order[start : start + batch_size]
            draws = step_draws(seed, epoch, step) if views is None else views.draws(epoch, ids)
            drawn.append(self._mover.places((len(ids), *self._pictures.shape[1:]), draws))
        whole = (np.concatenate(places).astype(np.int16) for places in zip(*drawn, strict=True))
        return tuple(torch.from_numpy(places).to(self._pictures.device) for places in whole)


def _moved(pictures: Tensor, rows: Tensor, columns: Tensor, *, padding: int) -> Tensor:
    padded = F.pad(pictures, (0, 0, padding, padding, padding, padding))
    which = torch.arange(len(pictures), device=pictures.device)
    return padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]
