"""The data set `webdataset`: pictures in tar shards, read at random by their place in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data.classes import named_classes
from edgekd.data.classified import Labelled, source_of_pictures
from edgekd.data.config import DataConfig
from edgekd.data.contents import Contents
from edgekd.data.corrupt import CorruptRecord
from edgekd.data.inputs import Rows
from edgekd.data.parts import PartName
from edgekd.data.shards.contents import ShardContents
from edgekd.data.shards.index import Label, index_of
from edgekd.data.shards.names import by_part, found, gaps, require_all
from edgekd.data.sources import DATASETS, DatasetKind, Shards, Source

NEEDS = "a folder of .tar shards, or a pattern such as train-{000000..000146}.tar"
_SUFFIX = ".tar"


@dataclass(frozen=True, eq=False)
class _Row:
    """The shards of one part.

    Attributes:
        contents: Their pictures.
        labels: As they are written, one for each picture.
        damaged: Shards that can be read in part only.
        ignored: Members that are no pictures and no labels.
    """

    contents: ShardContents
    labels: list[Label]
    damaged: tuple[CorruptRecord, ...]
    ignored: int


def load_webdataset(config: DataConfig) -> Source:
    """Index the shards of a data set; of pictures, only the headers of a sample are read here.

    Args:
        config: `path` is a folder or a pattern; `parts` names shards of each part where their names do not.

    Returns:
        Its parts. Classes are those of `classes.txt` in the folder, else the numbers or names that labels are.

    Raises:
        ConfigError: No resolution.
        DataError: A shard is missing, compressed or damaged, or a label is none of the classes.
        PreconditionError: Nothing at the path.
    """
    if config.resolution is None:
        raise ConfigError(f"data set {config.name!r} has pictures of any size: set data.resolution (pixels)")
    folder, patterns = _patterns(config.path, config.parts, config.name)
    paths, missing = _shards(folder, patterns, config)
    rows = {part: _row(folder, files, part) for part, files in paths.items()}
    shards = Shards(sum(map(len, paths.values())), missing, tuple(one for row in rows.values() for one in row.damaged))
    by_shard = config.shuffle == "shards"
    stored = {
        part: Labelled(row.contents, row.labels, row.contents.shard if by_shard else None) for part, row in rows.items()
    }
    notes = [f"{shards.count} shards", *_told(rows, shards)]
    return source_of_pictures(stored, config, named=named_classes(folder), notes=notes, shards=shards)


def unlabelled_shards(config: DataConfig, path: str) -> tuple[Contents, Rows | None]:
    """Return the pictures of shards whose labels are not read, and in which shard each lies; see `load_webdataset`."""
    folder, patterns = _patterns(path, {}, config.name)
    paths, _ = _shards(folder, {"train": [one for part in patterns.values() for one in part]}, config)
    row = _row(folder.parent, paths["train"], "train")
    if row.damaged and not config.max_corrupt:
        raise DataError(f"{row.damaged[0].name}: {row.damaged[0].reason}; fetch it again, or set data.max_corrupt")
    if not len(row.contents):
        raise DataError(f"data.unlabelled {path}: holds no picture")
    return row.contents, row.contents.shard


def _patterns(
    path: str | None, parts: Mapping[PartName, str | tuple[str, ...]], name: str
) -> tuple[Path, dict[PartName, list[str]]]:
    """Return the folder, and the patterns of each part below it."""
    if path is None:
        raise PreconditionError(f"data set {name!r} needs data.path: {NEEDS}")
    place = Path(path).expanduser()
    if parts:
        if "train" not in parts:
            raise ConfigError(f"data.parts names {', '.join(parts)}, and no shards of train")
        _require_folder(place, name)
        return place, {part: [one] if isinstance(one, str) else list(one) for part, one in parts.items()}
    if place.is_dir():
        return place, {part: list(names) for part, names in by_part(place, _SUFFIX).items()}
    if place.is_file() or "{" in place.name or "*" in place.name:
        _require_folder(place.parent, name)
        return place.parent, {"train": [place.name]}
    raise PreconditionError(f"{place}: nothing is there; data set {name!r} needs data.path: {NEEDS}")


def _require_folder(place: Path, name: str) -> None:
    if not place.is_dir():
        raise PreconditionError(f"{place}: no such folder; data set {name!r} needs data.path: {NEEDS}")


def _shards(
    folder: Path, patterns: Mapping[PartName, Sequence[str]], config: DataConfig
) -> tuple[dict[PartName, list[Path]], tuple[str, ...]]:
    paths: dict[PartName, list[Path]] = {}
    missing: dict[PartName, list[str]] = {}
    for part, wanted in patterns.items():
        paths[part], absent = found(folder, wanted)
        names = [path.relative_to(folder).as_posix() for path in paths[part]]
        missing[part] = absent or ([] if config.parts or len(names) == 1 else gaps(names))
    if not paths.get("train"):
        near = [path.name for path in folder.glob("*.tar.*")] + [path.name for path in folder.glob("*.tgz")]
        hint = f"; {near[0]} is compressed: unpack it to a plain .tar" if near else ""
        raise DataError(f"{folder}: holds no shard of train (*.tar){hint}")
    total = sum(len(paths[part]) + len(missing[part]) for part in paths)
    return paths, require_all(missing, total, may_skip=config.missing_shards == "skip")


def _row(folder: Path, paths: Sequence[Path], part: str) -> _Row:
    names = [path.relative_to(folder).as_posix() for path in paths]
    indexes = [index_of(path) for path in paths]
    damaged = tuple(
        CorruptRecord(part, name, index.damage) for name, index in zip(names, indexes, strict=True) if index.damage
    )
    labels = [label for index in indexes for label in index.labels]
    return _Row(ShardContents(names, paths, indexes), labels, damaged, sum(index.ignored for index in indexes))


def _told(rows: Mapping[PartName, _Row], shards: Shards) -> list[str]:
    told = []
    if shards.missing:
        told.append(f"{len(shards.missing)} shards are missing and skipped, such as {shards.missing[0]}")
    if ignored := sum(row.ignored for row in rows.values()):
        told.append(f"ignored {ignored} members of shards that are neither pictures nor labels")
    return told


DATASETS.add("webdataset", DatasetKind(load_webdataset, augmentation="shift", needs=NEEDS))
