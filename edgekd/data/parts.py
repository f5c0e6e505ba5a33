"""From the parts that a user's data set names to those that a run needs, rows without labels among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

import numpy as np

from edgekd.core.errors import DataError
from edgekd.core.seeds import derive_seed
from edgekd.data.sources import Part, Shards, Source
from edgekd.data.splits import held_out_rows
from edgekd.data.task import Task

PartName: TypeAlias = Literal["train", "val", "test"]

TEST_FRACTION = 0.2
"""Share of a data set of one part that is its test part, the same for every seed."""

_STEMS: dict[str, PartName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def part_of(path: str) -> PartName | None:
    """Return which part a file is of, by the first word of its name or by the name of a folder above it.

    Args:
        path: POSIX path below the data set's folder.
    """
    pure = PurePosixPath(path)
    word = pure.name.lower().replace("_", "-").replace(".", "-").split("-")[0]
    return next((_STEMS[name] for name in (word, *reversed(pure.parent.parts)) if name in _STEMS), None)


def source_of_parts(
    task: Task, parts: Mapping[PartName, Part], *, kind: str, notes: Sequence[str] = (), shards: Shards | None = None
) -> Source:
    """Decide which part is trained on, which choices are made on, and which is judged by.

    Args:
        task: What is to be learnt.
        parts: `train`, and what there is of `val` and `test`; rows without a label are of class -1.
        kind: What the data set is, in one word, for notes and as a name of the draw.
        notes: Decisions taken before.
        shards: The files it lies in.

    Returns:
        The source. Rows without a label are trained on only. A `val` without `test` is the test part, as in ImageNet.

    Raises:
        DataError: Nothing has a label, or too little to hold a part out.
    """
    train, told = parts["train"], list(notes)
    judged: dict[str, Part] = {}
    for name in ("val", "test"):
        part = parts.get(name)
        if part is None:
            continue
        if missing := len(part.labels) - len(part.labelled):
            told.append(f"{missing} of {len(part.labels)} {name} pictures have no label and are left out")
            part = part.take(part.labelled)
        if len(part.labels):
            judged[name] = part
    if not judged:
        if not len(train.labelled):
            raise DataError(
                f"no picture of this {kind} has a label, and without any nothing can be judged: give a val or test "
                "part with labels; pictures without them can be added to it by data.unlabelled"
            )
        seed = derive_seed(0, kind, "test")
        kept, held_out = held_out_rows(task.strata(train.labels[train.labelled]), fraction=TEST_FRACTION, seed=seed)
        told.append(f"test part: a fixed stratified {TEST_FRACTION:.0%} of all pictures")
        rest = np.setdiff1d(np.arange(len(train.labels), dtype=np.int64), train.labelled)
        kept_rows = np.sort(np.concatenate([train.labelled[kept], rest]))
        test = train.take(train.labelled[held_out])
        return Source(task, train.take(kept_rows), test, notes=tuple(told), shards=shards)
    if "test" not in judged:
        told.append("test part: val/; the held-out split is made from train/")
        return Source(task, train, judged["val"], notes=tuple(told), shards=shards)
    if "val" in judged:
        told.append(f"held-out split: val/, as the {kind} brings it")
    return Source(task, train, judged["test"], val=judged.get("val"), notes=tuple(told), shards=shards)


def absent_classes(task: Task, parts: Mapping[PartName, Part]) -> tuple[str, ...]:
    """Say, for each part with labels, which classes it lacks."""
    notes = []
    for name, part in parts.items():
        present = set(part.labels[part.labelled].tolist())
        missing = [target for label, target in enumerate(task.targets) if label not in present]
        if missing and present:
            notes.append(f"{name} has no picture of {len(missing)} classes, such as {missing[0]}")
    return tuple(notes)
