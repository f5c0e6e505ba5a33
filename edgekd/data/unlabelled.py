"""More pictures to train on, whose labels nobody knows or reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.contents import Contents, FileContents
from edgekd.data.folder import files_below, is_picture
from edgekd.data.inputs import Rows
from edgekd.data.joined import JoinedRows
from edgekd.data.metrics import UNLABELLED
from edgekd.data.parquet.loader import unlabelled_tables
from edgekd.data.pictures import Look, Pictures
from edgekd.data.shards.loader import unlabelled_shards
from edgekd.data.sources import Part

Found = tuple[Contents, Rows | None]


def added_pictures(config: DataConfig, like: Part) -> list[Part]:
    """Read what `data.unlabelled` names: a folder of pictures at any depth, shards, or tables.

    Args:
        config: The user's data section.
        like: Labelled rows, whose shape the pictures get.

    Returns:
        One part, or none where nothing is named.

    Raises:
        ConfigError: The data set holds no square pictures of one class each.
        DataError: There is no picture, or shards or tables are unusable.
        PreconditionError: Nothing is there.
    """
    if config.unlabelled is None:
        return []
    shape = like.inputs.shape
    if len(shape) != 3 or shape[1] != shape[2] or like.labels.ndim != 1 or like.labels.dtype != np.int64:
        raise ConfigError(f"data set {config.name!r}: data.unlabelled is for square pictures of one class each")
    contents, groups = _contents(config)
    look = Look(shape[1], shape[0] == 1, config.decode == "fast")
    labels = np.full(len(contents), UNLABELLED, np.int64)
    return [Part(Pictures(contents, look, is_tolerant=config.max_corrupt > 0), labels, groups)]


def with_unlabelled(train: Part, more: Sequence[Part], config: DataConfig) -> tuple[Part, tuple[str, ...]]:
    """Put pictures without labels behind a training part.

    Args:
        train: Rows with labels; may be empty.
        more: Parts without.
        config: `unlabelled_ratio` bounds how many are taken: the same for a seed.

    Returns:
        The part, and what to tell.
    """
    if not more:
        return train, ()
    added = _joined(more)
    available = len(added.labels)
    if config.unlabelled_ratio is not None:
        most = int(config.unlabelled_ratio * len(train.labels))
        rng = np.random.default_rng(derive_seed(config.seed, "data", "unlabelled"))
        added = added.take(np.sort(rng.permutation(available)[:most]).astype(np.int64))
    note = f"{len(added.labels)} of {available} pictures without a label are trained on"
    return _joined([part for part in (train, added) if len(part.labels)]), (note,)


def _joined(parts: Sequence[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    inputs = JoinedRows([part.inputs for part in parts])
    return Part(inputs, np.concatenate([part.labels for part in parts]), _groups(parts))


def _groups(parts: Sequence[Part]) -> Rows | None:
    """Number the groups of parts apart from each other; rows without any are a group of their own in each part."""
    if all(part.groups is None for part in parts):
        return None
    numbered, first = [], 0
    for part in parts:
        own = np.zeros(len(part.labels), np.int64) if part.groups is None else part.groups
        numbered.append(own + first)
        first += int(own.max(initial=0)) + 1
    return np.concatenate(numbered)


def _contents(config: DataConfig) -> Found:
    path = Path(str(config.unlabelled)).expanduser()
    for suffix, read in _READERS.items():
        if path.name.endswith(suffix) or (path.is_dir() and any(path.rglob(f"*{suffix}"))):
            return read(config, str(path))
    if not path.is_dir():
        raise PreconditionError(f"data.unlabelled {path}: no folder, shards (*.tar) or tables (*.parquet) are there")
    names = [name for name in files_below(path, path.parent) if is_picture(PurePosixPath(name).name)]
    if not names:
        raise DataError(f"data.unlabelled {path}: holds no picture")
    return FileContents(path.parent, names), None


_READERS: dict[str, Callable[[DataConfig, str], Found]] = {".tar": unlabelled_shards, ".parquet": unlabelled_tables}
