"""What a data set's loader hands over, the registry of loaders, and the checks that all of them share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError, PreconditionError
from edgekd.core.registry import Registry
from edgekd.data.config import DataConfig
from edgekd.data.corrupt import CorruptRecord
from edgekd.data.inputs import InputStore, Rows, StoredRows
from edgekd.data.metrics import Labels, has_label
from edgekd.data.task import Task
from edgekd.data.text.wordpiece import WordPiece


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a data set as it is stored.

    Attributes:
        inputs: Pictures, or sequences of tokens.
        labels: What the data set's task says, `[N, ...]`; a class of -1 is none.
        groups: int64 `[N]`, which rows lie together and are best read together; `None` where any order costs the same.
    """

    inputs: InputStore
    labels: Labels
    groups: Rows | None = None

    def take(self, rows: Rows) -> Part:
        """Return some rows of this part, in the order given."""
        groups = None if self.groups is None else self.groups[rows]
        return Part(StoredRows(self.inputs, rows), self.labels[rows], groups)

    @property
    def labelled(self) -> Rows:
        """Rows that have a label, int64."""
        return np.flatnonzero(has_label(self.labels))


@dataclass(frozen=True)
class Shards:
    """The files that a data set lies in, where they are many.

    Attributes:
        count: Files found.
        missing: Names of those that should be there and are not.
        damaged: Those that can be read in part only.
    """

    count: int
    missing: tuple[str, ...] = ()
    damaged: tuple[CorruptRecord, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """A stored data set before it is limited, split and resized.

    Attributes:
        task: What is to be learnt.
        train: Training part; the held-out split is made from it.
        test: Test part.
        val: A held-out part that the data set brings itself, else `None`.
        notes: Decisions taken while reading, in words.
        tokenizer: What made tokens of texts; `None` for pictures.
        shards: The files it lies in, where they are many.
    """

    task: Task
    train: Part
    test: Part
    val: Part | None = None
    notes: tuple[str, ...] = ()
    tokenizer: WordPiece | None = None
    shards: Shards | None = None


@dataclass(frozen=True)
class DatasetKind:
    """A registered data set.

    Attributes:
        load: Reads it.
        augmentation: What `default_augmentation` answers for it.
        needs: What `path` must point to, in words; empty when it needs none.
    """

    load: Callable[[DataConfig], Source]
    augmentation: str
    needs: str = ""


DATASETS: Registry[DatasetKind] = Registry("data set")


def dataset_names() -> tuple[str, ...]:
    """Return the names of all registered data sets, sorted."""
    return tuple(DATASETS)


def default_augmentation(name: str) -> str:
    """Return the augmentation that `"auto"` stands for with a data set; raises `ConfigError` on an unknown name."""
    return DATASETS[name].augmentation


def required_path(config: DataConfig, needs: str) -> Path:
    """Return `config.path` when it can be read.

    Args:
        config: The user's data section.
        needs: What the path must point to, in words.

    Returns:
        The path, `~` expanded.

    Raises:
        PreconditionError: No path is given, nothing is there, or it may not be read.
    """
    if config.path is None:
        raise PreconditionError(f"data set {config.name!r} needs data.path: {needs}")
    path = Path(config.path).expanduser()
    if os.access(path, os.R_OK):
        return path
    problem = "this user may not read it" if os.access(path, os.F_OK) else "nothing is there"
    raise PreconditionError(f"{path}: {problem}; data set {config.name!r} needs data.path: {needs}")


def checked_labels(labels: NDArray[np.uint8] | Rows, num_classes: int, origin: str, *, lowest: int = 0) -> Rows:
    """Return labels as int64 when all are within the classes.

    Args:
        labels: `[N]`.
        num_classes: Number of classes.
        origin: Where the labels came from, for messages.
        lowest: Lowest label; -1 where pictures need have none.

    Raises:
        DataError: A label is outside `0..num_classes-1`.
    """
    checked = labels.astype(np.int64)
    wrong = np.flatnonzero((checked < lowest) | (checked >= num_classes))
    if len(wrong):
        raise DataError(
            f"{origin}: label {checked[wrong[0]]} of picture {wrong[0]} is outside 0..{num_classes - 1} "
            f"({len(wrong)} such labels); check that the file belongs to this data set"
        )
    return checked


def checked_part(
    images: InputStore, labels: NDArray[np.uint8] | Rows, num_classes: int, origin: str, *, lowest: int = 0
) -> Part:
    """Return a part whose counts agree, whose labels are in range and which is not empty.

    Args:
        images: The pictures.
        labels: `[N]`.
        num_classes: Number of classes.
        origin: Where they came from, for messages.
        lowest: Lowest label; -1 where pictures need have none.

    Raises:
        DataError: Counts differ, a label is out of range, or nothing is there.
    """
    if len(images) != len(labels):
        raise DataError(f"{origin}: {len(images)} pictures but {len(labels)} labels; one of the files is not complete")
    if len(images) == 0:
        raise DataError(f"{origin}: holds no picture")
    if min(images.shape) < 1:
        raise DataError(f"{origin}: pictures [C, H, W] are {list(images.shape)}, without a pixel")
    return Part(images, checked_labels(labels, num_classes, origin, lowest=lowest))


def class_names(content: bytes, origin: str) -> tuple[str, ...]:
    """Read class names, one a line.

    Args:
        content: UTF-8 text; blank lines are skipped.
        origin: Where it came from, for messages.

    Raises:
        DataError: Not text, no name, or a name twice.
    """
    try:
        names = tuple(line.strip() for line in content.decode("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{origin}: class names are not UTF-8 text") from error
    if not names:
        raise DataError(f"{origin}: holds no class name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{origin}: class names {', '.join(twice)} appear more than once")
    return names
