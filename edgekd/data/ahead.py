"""Training batches made ahead by worker processes: the batches, and their order, of `train_batches`.

What a batch is, only the seed, the epoch and its number decide. A worker therefore carries nothing from batch to batch:
there is no state of it to save, and any number of workers gives the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from edgekd.core.errors import DataError, EdgeKDError
from edgekd.data.augment import Augment
from edgekd.data.batches import WHOLE, Batch, Portion, epoch_order, step_draws, train_batch, view_batch
from edgekd.data.dataset import Split
from edgekd.data.inputs import Rows
from edgekd.data.sample_views import SampleViews


@dataclass(frozen=True)
class _Epoch:
    split: Split
    order: Rows
    size: int
    epoch: int
    seed: int
    augment: Augment
    portion: Portion
    views: SampleViews | None

    def __len__(self) -> int:
        return (len(self.order) + self.size - 1) // self.size

    def __getitem__(self, step: int) -> Batch | EdgeKDError:
        ids = self.order[step * self.size : (step + 1) * self.size]
        try:
            if self.views is not None:
                return view_batch(self.split, ids[self.portion.rows(len(ids))], self.augment, self.views, self.epoch)
            return train_batch(self.split, ids, self.augment, step_draws(self.seed, self.epoch, step), self.portion)
        except EdgeKDError as error:  # Handed over as it is: the loader would wrap it in a worker's traceback.
            return error


def batches_ahead(
    split: Split,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    augment: Augment,
    workers: int,
    first: int = 0,
    portion: Portion = WHOLE,
    views: SampleViews | None = None,
) -> Iterator[Batch]:
    """Yield one epoch as `train_batches` does, made by `workers` processes while the caller works.

    Args:
        split: What to train on.
        batch_size: Inputs in a batch.
        epoch: Number of the epoch.
        seed: Root seed.
        augment: Random change applied to each batch.
        workers: Processes, at least one.
        first: Batches to leave out at the start of the epoch.
        portion: Part of each batch to make.
        views: Draw the change of each sample by itself, as this view of it.

    Raises:
        DataError: A worker died, or found what `train_batches` raises.
    """
    order = epoch_order(len(split), batch_size=batch_size, epoch=epoch, seed=seed, mixing=split.mixing)
    made = _Epoch(split, order, batch_size, epoch, seed, augment, portion, views)
    # The loader draws a seed for its workers, which they do not use: a generator of its own keeps the caller's.
    loader: DataLoader[Batch | EdgeKDError] = DataLoader(
        made,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(first, len(made)),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator().manual_seed(0),
    )
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a data worker died ({_first_line(error)}); the system ends one that takes too much memory. Run the "
                "same command again to go on, with fewer workers or none: --set train.workers=0"
            ) from error
        if isinstance(batch, EdgeKDError):
            raise batch
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
