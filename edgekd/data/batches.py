"""Splits to batches of tensors, in an order and with an augmentation that only the seed and the epoch decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgekd.core.errors import ConfigError, DataError
from edgekd.core.seeds import derive_seed
from edgekd.data.augment import Augment, Divisible
from edgekd.data.dataset import Mixing, Split
from edgekd.data.inputs import Rows, Stored, network_inputs
from edgekd.data.metrics import Labels, has_label
from edgekd.data.sample_views import SampleViews

_LARGEST_BATCH = 256
_BATCH_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class Blend:
    """The other half of inputs that are mixed of two.

    Attributes:
        labels: int64 `[B]`, the labels of the other inputs.
        shares: float32 `[B]`, how much of each is its own; the other has the rest.
    """

    labels: torch.Tensor
    shares: torch.Tensor


@dataclass(frozen=True)
class Portion:
    """A contiguous part of every batch.

    Attributes:
        index: Which part, from 0.
        of: How many parts there are, of equal size.
    """

    index: int = 0
    of: int = 1

    def rows(self, count: int) -> slice:
        """Return which of `count` rows belong to it."""
        return slice(self.index * count // self.of, (self.index + 1) * count // self.of)


WHOLE = Portion()


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows of a split as tensors.

    Attributes:
        inputs: Pictures float32 `[B, C, H, W]` in 0..1, or tokens int64 `[B, L]`.
        labels: int64 `[B]`, -1 where there is none, int64 `[B, H, W]` with 255 in ignored pixels, or float32 `[B, D]`.
        ids: int64 `[B]`, rows in their split; -1 for inputs that are made and lie in none.
        is_labelled: bool `[B]`, whether the label may be used.
        blend: Of inputs that are mixed, what else they are; None otherwise.
        host_ids: `ids` where they can be read without waiting for a device; None where that is not known.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    is_labelled: torch.Tensor
    blend: Blend | None = None
    host_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`."""
        moved = self._each(lambda tensor: tensor.to(device))
        return replace(moved, host_ids=self.ids if self.ids.device.type == "cpu" else self.host_ids)

    def read_ids(self) -> Rows:
        """Return `ids` on the host; it waits for the device where they are only there."""
        ids = self.ids if self.host_ids is None else self.host_ids
        return ids.cpu().numpy()

    def rows(self, chosen: slice) -> Batch:
        """Return some of its rows."""
        return self._each(lambda tensor: tensor[chosen])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        blend = None if self.blend is None else Blend(change(self.blend.labels), change(self.blend.shares))
        host_ids = None if self.host_ids is None else change(self.host_ids)
        inputs, labels, ids = change(self.inputs), change(self.labels), change(self.ids)
        return Batch(inputs, labels, ids, change(self.is_labelled), blend, host_ids)


def train_batches(
    split: Split,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    augment: Augment,
    drop_last: bool = True,
    first: int = 0,
    portion: Portion = WHOLE,
    views: SampleViews | None = None,
) -> Iterator[Batch]:
    """Yield one epoch in random order, augmented.

    Args:
        split: What to train on.
        batch_size: Inputs in a batch.
        epoch: Number of the epoch; with `seed` it decides order and augmentation, whatever ran before.
        seed: Root seed.
        augment: Random change applied to each batch.
        drop_last: Leave an incomplete last batch out; where it would be the only one it is kept.
        first: Batches to leave out at the start of the epoch.
        portion: Part of each batch to make.
        views: Draw the change of each sample by itself, as this view of it.

    Returns:
        The batches.

    Raises:
        ConfigError: `batch_size` below 1.
        DataError: The split is empty.
    """
    order = epoch_order(
        len(split), batch_size=batch_size, epoch=epoch, seed=seed, drop_last=drop_last, mixing=split.mixing
    )

    def generate() -> Iterator[Batch]:
        for step, ids in enumerate(_runs(order, batch_size)):
            if step < first:
                continue
            if views is None:
                yield train_batch(split, ids, augment, step_draws(seed, epoch, step), portion)
            else:
                yield view_batch(split, ids[portion.rows(len(ids))], augment, views, epoch)

    return generate()


def train_batch(split: Split, ids: Rows, augment: Augment, rng: np.random.Generator, portion: Portion = WHOLE) -> Batch:
    """Return one batch, augmented.

    Args:
        split: What to train on.
        ids: The rows of the batch.
        augment: Random change applied to it.
        rng: What decides the change.
        portion: Part of the batch to make; the same rows as in the whole batch.
    """
    if portion == WHOLE:
        return _batch(*augment(split.inputs.gather(ids), split.labels[ids], rng), ids)
    rows = portion.rows(len(ids))
    own = ids[rows]
    if isinstance(augment, Divisible):
        return _batch(*augment.part(split.inputs.gather(own), split.labels[own], rng, rows=rows, of=len(ids)), own)
    inputs, labels = augment(split.inputs.gather(ids), split.labels[ids], rng)
    return _batch(inputs[rows], labels[rows], own)


def view_batch(split: Split, ids: Rows, augment: Augment, views: SampleViews, epoch: int) -> Batch:
    """Return one batch whose samples are changed each by itself.

    Args:
        split: What to train on.
        ids: The rows of the batch.
        augment: Random change applied to it.
        views: What decides the change.
        epoch: Number of the epoch.

    Raises:
        ConfigError: The change is not one of each sample by itself.
    """
    if not isinstance(augment, Divisible):
        raise ConfigError(
            f"augmentation {type(augment).__name__} changes whole batches only, so a sample has no views: set "
            "train.teacher_cache=null and train.augment_views=null"
        )
    draws = views.draws(epoch, ids)
    changed = augment.part(split.inputs.gather(ids), split.labels[ids], draws, rows=slice(None), of=len(ids))
    return _batch(*changed, ids)


def epoch_order(
    count: int, *, batch_size: int, epoch: int, seed: int, drop_last: bool = True, mixing: Mixing | None = None
) -> Rows:
    """Return the rows of one epoch in their random order; see `train_batches` for the arguments and errors.

    With a `mixing` it is that of its groups at random, rows being mixed within a few groups at a time.
    """
    _check(count, batch_size)
    rng = np.random.default_rng(derive_seed(seed, "order", epoch))
    order = rng.permutation(count) if mixing is None else _mixed(mixing, rng)
    if drop_last and count > batch_size:
        order = order[: count // batch_size * batch_size]
    return order


def _mixed(mixing: Mixing, rng: np.random.Generator) -> Rows:
    groups, inverse = np.unique(mixing.groups, return_inverse=True)
    windows = rng.permutation(len(groups))[inverse] // mixing.window
    order = rng.permutation(len(inverse))
    return order[np.argsort(windows[order], kind="stable")]


def step_draws(seed: int, epoch: int, step: int) -> np.random.Generator:
    """Return the generator that decides the augmentation of one batch."""
    return np.random.default_rng(derive_seed(seed, "augment", epoch, step))


def eval_batches(split: Split, *, batch_size: int | None = None) -> Iterator[Batch]:
    """Yield every row once, in order, unchanged; the last batch may be smaller.

    Args:
        split: What to evaluate on.
        batch_size: Inputs in a batch; by default up to 256, as many as hold a few million values.

    Returns:
        The batches.

    Raises:
        ConfigError: `batch_size` below 1.
        DataError: The split is empty.
    """
    if batch_size is None:
        batch_size = max(1, min(_LARGEST_BATCH, _BATCH_VALUES // math.prod(split.inputs.shape)))
    _check(len(split), batch_size)
    rows = np.arange(len(split), dtype=np.int64)
    return (_batch(split.inputs.gather(ids), split.labels[ids], ids) for ids in _runs(rows, batch_size))


def _check(count: int, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, it must be at least 1")
    if count == 0:
        raise DataError("the split holds no input to make batches of")


def _runs(rows: Rows, size: int) -> Iterator[Rows]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _batch(stored: Stored, labels: Labels, ids: Rows) -> Batch:
    return Batch(
        torch.from_numpy(network_inputs(stored)),
        torch.from_numpy(labels),
        torch.from_numpy(ids.copy()),
        torch.from_numpy(has_label(labels)),
    )
