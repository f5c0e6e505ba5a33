"""The data set `parquet`: pictures in Parquet tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data.classes import named_classes
from edgekd.data.classified import Labelled, source_of_pictures
from edgekd.data.config import DataConfig
from edgekd.data.contents import Contents
from edgekd.data.inputs import Rows
from edgekd.data.parquet.contents import TableContents
from edgekd.data.parquet.hub import PREFIX, hub_folder
from edgekd.data.parquet.tables import column_for, columns_of, open_table, required_column, values_of
from edgekd.data.parts import PartName
from edgekd.data.shards.index import label_of
from edgekd.data.shards.names import by_part, found, gaps, require_all
from edgekd.data.sources import DATASETS, DatasetKind, Shards, Source

NEEDS = "a .parquet file, a folder of them, a pattern such as train-*.parquet, or hf:OWNER/NAME"
_SUFFIX = ".parquet"


def load_parquet(config: DataConfig) -> Source:
    """Read the labels of tables; of pictures, only the headers of a sample are read here.

    Args:
        config: `path` is a file, a folder, a pattern or a name on the hub; `columns` says which column is what where
            neither schema nor name does.

    Returns:
        Its parts. Classes are those of the schema or of `classes.txt`, else the numbers or names that labels are.
        Tables of more than 256 MiB of pictures are shuffled row groups at a time, unless `shuffle` is `full`.

    Raises:
        ConfigError: No resolution, or it is not clear which column is what.
        DataError: A table is missing, empty or damaged, or a label is none of the classes.
        PreconditionError: Nothing is there, or pyarrow is not installed.
    """
    if config.resolution is None:
        raise ConfigError(f"data set {config.name!r} has pictures of any size: set data.resolution (pixels)")
    folder, files, missing = table_files(config, config.path)
    columns = columns_of(open_table(files["train"][0]))
    image = required_column("image", columns, config.columns, files["train"][0].name)
    label = column_for("label", columns, config.columns, files["train"][0].name)
    stored = {part: _part(folder, paths, image, label, config) for part, paths in files.items()}
    for part, one in stored.items():
        if not len(one.contents):
            raise DataError(f"{folder}: the tables of {part} hold no row")
    shards = Shards(sum(map(len, files.values())), missing)
    notes = [f"{shards.count} tables"]
    if missing:
        notes.append(f"{len(missing)} tables are missing and skipped, such as {missing[0]}")
    named = columns.classes.get(label or "") or named_classes(folder)
    return source_of_pictures(stored, config, named=named, notes=notes, shards=shards)


def unlabelled_tables(config: DataConfig, path: str) -> tuple[Contents, Rows | None]:
    """Return the pictures of tables whose labels are not read, and in which row group each lies; see `load_parquet`."""
    folder, files, _ = table_files(config.model_copy(update={"parts": {}}), path)
    paths = [one for part in files.values() for one in part]
    image = required_column("image", columns_of(open_table(paths[0])), config.columns, paths[0].name)
    names = [one.relative_to(folder.parent).as_posix() for one in paths]
    contents = TableContents(names, paths, image, config.window)
    return contents, _groups(contents, config)


def table_files(config: DataConfig, given: str | None) -> tuple[Path, dict[PartName, list[Path]], tuple[str, ...]]:
    """Find the tables of each part.

    Args:
        config: The user's data section.
        given: Its path, or that of pictures without labels.

    Returns:
        Their folder, the files by part (`train` is one), and the names of those that are missing and may be.

    Raises:
        DataError: There is none of `train`, or some are missing and may not be.
        PreconditionError: Nothing is there.
    """
    if given is None:
        raise PreconditionError(f"data set {config.name!r} needs data.path: {NEEDS}")
    place = hub_folder(given) if given.startswith(PREFIX) else Path(given).expanduser()
    patterns: Mapping[PartName, Sequence[str]]
    if config.parts:
        folder, patterns = place, {part: [one] if isinstance(one, str) else one for part, one in config.parts.items()}
    elif place.is_dir():
        folder, patterns = place, by_part(place, _SUFFIX)
    else:
        folder, patterns = place.parent, {"train": [place.name]}
    if not folder.is_dir() or not (place.exists() or any(mark in place.name for mark in "{*")):
        raise PreconditionError(f"{place}: nothing is there; data set {config.name!r} needs data.path: {NEEDS}")
    files: dict[PartName, list[Path]] = {}
    missing: dict[PartName, list[str]] = {}
    for part, wanted in patterns.items():
        files[part], absent = found(folder, wanted)
        names = [path.relative_to(folder).as_posix() for path in files[part]]
        missing[part] = absent or ([] if config.parts or len(names) == 1 else gaps(names))
    if not files.get("train"):
        raise DataError(f"{place}: holds no table of train (*{_SUFFIX}); name them by data.parts.train")
    total = sum(len(files[part]) + len(missing[part]) for part in files)
    return folder, files, require_all(missing, total, may_skip=config.missing_shards == "skip")


def _part(folder: Path, paths: Sequence[Path], image: str, label: str | None, config: DataConfig) -> Labelled:
    names = [path.relative_to(folder).as_posix() for path in paths]
    contents = TableContents(names, paths, image, config.window)
    labels: list[Any] = []
    for name, path in zip(names, paths, strict=True):
        table = open_table(path)
        if label is not None and label not in table.schema_arrow.names:
            raise DataError(f"{path}: has no column {label!r}, which other tables have as the label")
        rows = table.metadata.num_rows
        labels += [None] * rows if label is None else values_of(table, label, name)
    checked = [label_of(value, contents.name(row)) for row, value in enumerate(labels)]
    return Labelled(contents, checked, _groups(contents, config))


def _groups(contents: TableContents, config: DataConfig) -> Rows | None:
    return None if contents.is_small and config.shuffle == "auto" else contents.group


DATASETS.add("parquet", DatasetKind(load_parquet, augmentation="shift", needs=NEEDS))
