"""From encoded pictures and their labels as they are written to the source of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekd.core.errors import DataError
from edgekd.data.classes import class_numbers, classes_of
from edgekd.data.config import DataConfig
from edgekd.data.contents import Contents
from edgekd.data.inputs import Rows
from edgekd.data.parts import PartName, absent_classes, source_of_parts
from edgekd.data.pictures import Look, Pictures, stored_grey
from edgekd.data.sources import Part, Shards, Source, checked_part
from edgekd.data.task import Task


@dataclass(frozen=True, eq=False)
class Labelled:
    """One part of a data set.

    Attributes:
        contents: Its encoded pictures.
        labels: Number or name of the class of each, None or a negative number where it has none.
        groups: int64 `[N]`, which pictures are best read together, or None.
    """

    contents: Contents
    labels: Sequence[int | str | None]
    groups: Rows | None


def source_of_pictures(
    stored: Mapping[PartName, Labelled],
    config: DataConfig,
    *,
    named: tuple[str, ...] | None,
    notes: Sequence[str],
    shards: Shards,
) -> Source:
    """Make the source of a data set; of pictures, only the headers of a sample are read here.

    Args:
        stored: `train`, and what there is of `val` and `test`.
        config: Resolution, how to decode, whether corrupt pictures are passed over.
        named: Names of the classes where the data set has them.
        notes: Decisions taken before.
        shards: The files it lies in.

    Raises:
        DataError: Nothing has a label, a label is none of the classes, or a part is empty.
    """
    is_tolerant, place = config.max_corrupt > 0, str(config.path)
    classes = classes_of([label for part in stored.values() for label in part.labels], place, named)
    if not classes:
        raise DataError(
            f"{place}: no picture has a label (.cls or .json beside it in a shard, a column of a table, "
            "data.columns.label); give a val or test part with labels, or take these pictures as data.unlabelled of a "
            "data set with labels"
        )
    is_grey, sampled = stored_grey(stored["train"].contents, is_tolerant=is_tolerant)
    look = Look(config.resolution or 0, is_grey, config.decode == "fast")
    parts: dict[PartName, Part] = {}
    for name, part in stored.items():
        numbers = class_numbers(part.labels, classes, part.contents.name)
        images = Pictures(part.contents, look, is_tolerant=is_tolerant)
        checked = checked_part(images, numbers, len(classes), f"{place}: {name}", lowest=-1)
        parts[name] = Part(checked.inputs, checked.labels, part.groups)
    task = Task("classification", classes)
    colour = f"{'grey' if is_grey else 'RGB'} pictures, by the stored modes of {sampled} training pictures"
    told = [*notes, colour, *absent_classes(task, parts)]
    return source_of_parts(task, parts, kind=config.name, notes=told, shards=shards)
