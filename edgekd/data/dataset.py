"""The data set noun: three splits of labelled inputs with the statistics and the digest of what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError
from edgekd.data.inputs import Inputs
from edgekd.data.metrics import IGNORED, Labels
from edgekd.data.task import Task
from edgekd.data.text.wordpiece import WordPiece


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs, their labels, and what the labels mean.

    Attributes:
        inputs: Pictures, or sequences of tokens.
        labels: What `task` says: int64 `[N]`, int64 `[N, H, W]` or float32 `[N, D]`.
        task: What is to be learnt.

    Raises:
        DataError: There are not as many labels as inputs, they are not of the task, or maps have another size than
            their pictures.
    """

    inputs: Inputs
    labels: Labels
    task: Task

    def __post_init__(self) -> None:
        self.task.check_labels(self.labels)
        if len(self.inputs) != len(self.labels):
            raise DataError(f"{len(self.inputs)} inputs but {len(self.labels)} labels")
        if self.task.is_dense and self.labels.shape[1:] != self.inputs.shape[1:]:
            raise DataError(f"label maps {self.labels.shape[1:]} for pictures {self.inputs.shape[1:]} (height, width)")

    def __len__(self) -> int:
        return len(self.labels)


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
        digest: Covers inputs, labels, task, split and resolution.
        notes: Decisions taken while loading, in words, for the report.
        tokenizer: What made tokens of texts; `None` for pictures.
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
    counted = labels[labels != IGNORED] if task.is_dense else labels
    return np.bincount(counted.astype(np.int64), minlength=len(task.targets))
