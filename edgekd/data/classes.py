"""From labels as they are written, numbers or names, to classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgekd.core.errors import DataError
from edgekd.data.inputs import Rows
from edgekd.data.metrics import UNLABELLED
from edgekd.data.sources import class_names

CLASSES_FILE = "classes.txt"
"""Names of classes, one a line, beside the data."""

_MOST_CLASSES = 1 << 20


def classes_of(labels: Sequence[int | str | None], origin: str, named: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the classes of a data set.

    Args:
        labels: Every label that occurs.
        origin: Where they came from, for messages.
        named: What `classes.txt` or a schema says, or None.

    Returns:
        `named`; or the names that occur, sorted; or the numbers from 0 to the highest.

    Raises:
        DataError: There are numbers and names, or too many classes.
    """
    if named is not None:
        return named
    words = sorted({label for label in labels if isinstance(label, str)})
    numbers = [label for label in labels if isinstance(label, int) and label >= 0]
    if words and numbers:
        raise DataError(f"{origin}: labels are numbers and names, such as {numbers[0]} and {words[0]!r}; take one kind")
    count = len(words) if words else max(numbers, default=-1) + 1
    if count > _MOST_CLASSES:
        raise DataError(f"{origin}: {count:,} classes, at most {_MOST_CLASSES:,} are taken; is the label right?")
    return tuple(words) if words else tuple(map(str, range(count)))


def class_numbers(labels: Sequence[int | str | None], classes: tuple[str, ...], name: Callable[[int], str]) -> Rows:
    """Return labels as numbers of classes, int64 `[N]`, -1 where there is none.

    Args:
        labels: As they are written; negative numbers are none.
        classes: Names of the classes.
        name: What messages call a row.

    Raises:
        DataError: A label is not among the classes; names the first one.
    """
    number: dict[int | str | None, int] = {word: at for at, word in enumerate(classes)}
    numbers = np.array(
        [
            number.get(label, len(classes)) if isinstance(label, str) else UNLABELLED if label is None else label
            for label in labels
        ],
        np.int64,
    )
    wrong = np.flatnonzero(numbers >= len(classes))
    if len(wrong):
        raise DataError(
            f"{name(int(wrong[0]))}: label {labels[wrong[0]]!r} is none of the {len(classes)} classes "
            f"({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}); {len(wrong)} such labels"
        )
    return np.maximum(numbers, UNLABELLED)


def named_classes(folder: Path) -> tuple[str, ...] | None:
    """Return what `classes.txt` in a folder says, None where there is none."""
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        return class_names(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
