"""The data set noun: three splits of labelled inputs with the statistics and the digest of what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError
from edgekd.data.corrupt import CorruptLog
from edgekd.data.inputs import Inputs, Rows
from edgekd.data.metrics import IGNORED, Labels, has_label
from edgekd.data.sources import Shards
from edgekd.data.task import Task
from edgekd.data.text.wordpiece import WordPiece


@dataclass(frozen=True, eq=False)
class Mixing:
    """An order of an epoch that reads rows which lie together together.

    Attributes:
        groups: int64 `[N]`, where each row lies.
        window: Groups whose rows are mixed with each other at a time.
    """

    groups: Rows
    window: int


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs, their labels, and what the labels mean.

    Attributes:
        inputs: Pictures, or sequences of tokens.
        labels: What `task` says: int64 `[N]`, int64 `[N, H, W]` or float32 `[N, D]`; a class of -1 is none.
        task: What is to be learnt.
        mixing: The order of an epoch, any by default.

    Raises:
        DataError: There are not as many labels as inputs, they are not of the task, or maps have another size than
            their pictures.
    """

    inputs: Inputs
    labels: Labels
    task: Task
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        self.task.check_labels(self.labels)
        if len(self.inputs) != len(self.labels):
            raise DataError(f"{len(self.inputs)} inputs but {len(self.labels)} labels")
        if self.task.is_dense and self.labels.shape[1:] != self.inputs.shape[1:]:
            raise DataError(f"label maps {self.labels.shape[1:]} for pictures {self.inputs.shape[1:]} (height, width)")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_label(self) -> NDArray[np.bool_]:
        """Which rows are labelled, bool `[N]`."""
        return has_label(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set of one task: labelled pictures, or labelled sequences of tokens.

    Attributes:
        name: The registered name it was loaded by.
        train: What networks are trained on.
        val: Held out of the training part; every choice during a run is made on it.
        test: Never used to choose anything.
        mean: Mean of each channel of the training split, pixels in 0..1; empty where inputs are tokens.
        std: Standard deviation of each channel of the training split, pixels in 0..1; empty where inputs are tokens.
        digest: Covers inputs, labels, task, split and resolution, and in which order shards are read.
        notes: Decisions taken while loading, in words, for the report.
        tokenizer: What made tokens of texts; `None` for pictures.
        corrupt: Where inputs that cannot be decoded are named; `None` where none is allowed.
        shards: The files it lies in, where they are many.
    """

    name: str
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    notes: tuple[str, ...] = ()
    tokenizer: WordPiece | None = None
    corrupt: CorruptLog | None = None
    shards: Shards | None = None

    @property
    def task(self) -> Task:
        """What is to be learnt, the same in every split."""
        return self.train.task

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as a network takes it: `(C, H, W)`, or `(L,)` of tokens."""
        return self.train.inputs.shape

    @property
    def in_channels(self) -> int:
        """Channels of a picture; 0 where inputs are tokens."""
        return 0 if self.tokenizer is not None else self.input_shape[0]

    @property
    def resolution(self) -> int:
        """Height and width of a picture in pixels, or length of a text in tokens."""
        return self.input_shape[-1]

    @property
    def vocabulary(self) -> int:
        """Token numbers that an input may hold; 0 where inputs are pictures."""
        return 0 if self.tokenizer is None else len(self.tokenizer.vocabulary)


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what a report says about a data set, as plain JSON data.

    Args:
        dataset: A loaded data set.

    Returns:
        Name, kind of task and its targets, shape of one input, size of each split, statistics, notes and digest; how
        many inputs (or pixels) of each class a split holds, where there are classes.
    """
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {
        "name": dataset.name,
        "task": dataset.task.kind,
        "targets": list(dataset.task.targets),
        "shape": list(dataset.input_shape),
        "sizes": {name: len(split) for name, split in splits.items()},
        "unlabelled": int((~dataset.train.has_label).sum()),
        "class_counts": {
            name: class_counts(split.labels, dataset.task).tolist()
            for name, split in splits.items()
            if dataset.task.kind != "regression"
        },
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "notes": list(dataset.notes),
        "digest": dataset.digest,
    }


def class_counts(labels: Labels, task: Task) -> NDArray[np.int64]:
    """Count the inputs (the pixels that are not ignored) of each class: int64 `[K]`."""
    counted = labels[labels != IGNORED] if task.is_dense else labels[has_label(labels)]
    return np.bincount(counted.astype(np.int64), minlength=len(task.targets))
