"""From a stored data set to the one a run uses: limited, split, resized, measured and digested.

The order is fixed: `limit` first, then `val` out of what is left of the training part, then statistics on `train`
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.core.digest import sha256_of_arrays, sha256_of_json
from edgekd.core.errors import ConfigError, DataError
from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.corrupt import CorruptLog, StoodIn, allowed
from edgekd.data.dataset import Dataset, Mixing, Split, class_counts
from edgekd.data.images import ResizedImages
from edgekd.data.metrics import has_label
from edgekd.data.sources import DATASETS, Part, Source
from edgekd.data.splits import held_out_rows, limited_rows
from edgekd.data.statistics import MAX_VALUES, channel_statistics
from edgekd.data.task import Task
from edgekd.data.unlabelled import added_pictures, with_unlabelled

_FEWER_VALUES = 1 << 27  # Of data sets in shards, which are to be quick to start: 891 pictures of 224 x 224 in RGB.


def load_dataset(config: DataConfig, *, corrupt_file: Path | None = None) -> Dataset:
    """Load the data set that a configuration names.

    Args:
        config: The `data:` section.
        corrupt_file: Where inputs that cannot be decoded are named, for all processes of a run alike; None for a
            temporary file.

    Returns:
        Its three splits with statistics of the training split. The held-out split depends on `config.seed`, the test
        split does not. Rows of the training split that have no label come after those that have one.

    Raises:
        ConfigError: Unknown name, or options that do not fit the data set.
        DataError: The data are damaged, inconsistent or too few.
        PreconditionError: The data are not on this machine.
    """
    source = DATASETS[config.name].load(config)
    _check_options(source, config)
    parts, more, notes = _divided(source, config)
    parts = {name: _resized(part, source.task, config) for name, part in parts.items()}
    more = [_resized(part, source.task, config) for part in more if len(part.labels)]
    extra = added_pictures(config, parts["train"])
    parts["train"], unlabelled_notes = with_unlabelled(parts["train"], [*more, *extra], config)
    log = _log(source, parts, config, corrupt_file)
    if log is not None:
        parts = {name: _stood_in(part, source.task, name, log) for name, part in parts.items()}
    _check_shapes({name: part.inputs.shape for name, part in parts.items()}, config)
    splits = {name: Split(part.inputs, part.labels, source.task, _groups(part, config)) for name, part in parts.items()}
    _check_targets(splits["train"], config)
    mean, std, statistics_notes = _statistics(splits["train"], is_large=source.shards is not None)
    return Dataset(
        name=config.name,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        mean=mean,
        std=std,
        digest=_digest(source.task, parts, splits["train"].mixing),
        notes=(*source.notes, *notes, *unlabelled_notes, *statistics_notes),
        tokenizer=source.tokenizer,
        corrupt=log,
        shards=source.shards,
    )


def _log(source: Source, parts: Mapping[str, Part], config: DataConfig, corrupt_file: Path | None) -> CorruptLog | None:
    """Return where corrupt inputs are named, with those shards that are known to be cut short; None allows none."""
    damaged = source.shards.damaged if source.shards is not None else ()
    if not config.max_corrupt:
        if damaged:
            raise DataError(
                f"{damaged[0].name}: {damaged[0].reason}. Fetch it again, or go on with what can be read: "
                "data.max_corrupt counts a damaged shard as one input"
            )
        return None
    log = CorruptLog(corrupt_file, allowed(config.max_corrupt, sum(len(part.labels) for part in parts.values())))
    log.check()
    for record in damaged:
        log.add(record)
    return log


def _stood_in(part: Part, task: Task, name: str, log: CorruptLog) -> Part:
    return Part(StoodIn(part.inputs, task.strata(part.labels), name, log), part.labels, part.groups)


def _groups(part: Part, config: DataConfig) -> Mixing | None:
    if config.shuffle == "shards" and part.groups is None:
        raise ConfigError(f"data set {config.name!r} has no shards to shuffle: leave data.shuffle out")
    return None if part.groups is None or config.shuffle == "full" else Mixing(part.groups, config.window)


def _check_options(source: Source, config: DataConfig) -> None:
    given = [name for name in ("length", "vocabulary", "vocabulary_size") if getattr(config, name) is not None]
    if given and source.tokenizer is None:
        raise ConfigError(f"data set {config.name!r} holds no texts: remove data.{', data.'.join(given)}")


def _divided(source: Source, config: DataConfig) -> tuple[dict[str, Part], list[Part], tuple[str, ...]]:
    """Return the three parts, what else there is to train on without labels, and what was decided."""

    def limited(part: Part, seed: int) -> Part:
        return part.take(limited_rows(source.task.strata(part.labels), limit=config.limit, seed=seed))

    train, more = _by_label(source.train)
    train = limited(train, derive_seed(config.seed, "data", "limit"))
    more = [part.take(np.arange(len(part.labels), dtype=np.int64)[: config.limit]) for part in more]
    test = limited(source.test, derive_seed(0, "data", "limit", "test"))
    if source.val is not None:
        val = limited(source.val, derive_seed(config.seed, "data", "limit", "val"))
        return {"train": train, "val": val, "test": test}, more, ()
    whole = train if len(train.labels) else test
    strata, seed = source.task.strata(whole.labels), derive_seed(config.seed, "data", "val")
    kept, held_out = held_out_rows(strata, fraction=config.val_fraction, seed=seed)
    if whole is test:
        note = "no training picture has a label: the held-out split is made from the test part, which is without it"
        return {"train": train, "val": test.take(held_out), "test": test.take(kept)}, more, (note,)
    return {"train": train.take(kept), "val": train.take(held_out), "test": test}, more, ()


def _by_label(part: Part) -> tuple[Part, list[Part]]:
    """Return the rows with a label, and those without as a part of their own."""
    labelled = part.labelled
    if len(labelled) == len(part.labels):
        return part, []
    return part.take(labelled), [part.take(np.flatnonzero(~has_label(part.labels)))]


def _resized(part: Part, task: Task, config: DataConfig) -> Part:
    if config.resolution is None or part.inputs.shape[1:] == (config.resolution, config.resolution):
        return part
    if len(part.inputs.shape) != 3:
        raise ConfigError(f"data set {config.name!r} holds no pictures: remove data.resolution ({config.resolution})")
    if task.is_dense:
        height, width = part.inputs.shape[1:]
        raise ConfigError(
            f"data set {config.name!r} has label maps of {width} x {height} pixels, which are not resized: "
            f"remove data.resolution ({config.resolution})"
        )
    return Part(ResizedImages(part.inputs, config.resolution), part.labels, part.groups)


def _check_shapes(shapes: dict[str, tuple[int, ...]], config: DataConfig) -> None:
    if len(set(shapes.values())) > 1:
        raise DataError(f"data set {config.name!r}: inputs differ in shape between parts: {shapes}")
    shape = shapes["train"]
    if len(shape) == 3 and shape[1] != shape[2]:
        raise ConfigError(f"data set {config.name!r}: pictures are {shape[2]} x {shape[1]} pixels; set data.resolution")


def _statistics(train: Split, *, is_large: bool) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    if len(train.inputs.shape) != 3:
        return (), (), ()
    found = channel_statistics(train.inputs, max_values=_FEWER_VALUES if is_large else MAX_VALUES)
    note = f"mean and std: from {found.pictures} evenly spaced training pictures"
    return found.mean, found.std, (note,) if found.pictures < len(train) else ()


def _check_targets(train: Split, config: DataConfig) -> None:
    """Refuse training labels from which a target cannot be learnt: a class without example, a constant quantity."""
    task = train.task
    if not train.has_label.any():
        return
    if task.kind == "regression":
        is_absent, lack = train.labels.std(axis=0) == 0, "targets have one value in every training row"
    else:
        is_absent, lack = class_counts(train.labels, task) == 0, "classes have no training example"
    absent = [task.targets[index] for index in np.flatnonzero(is_absent)]
    if absent:
        limit = "" if config.limit is None else f" under data.limit {config.limit}"
        raise DataError(
            f"data set {config.name!r}: {len(absent)} of {len(task.targets)} {lack}{limit}: {', '.join(absent[:5])}"
        )


def _digest(task: Task, parts: dict[str, Part], mixing: Mixing | None) -> str:
    content: dict[str, Any] = {
        name: {
            "inputs": part.inputs.fingerprint(np.arange(len(part.labels), dtype=np.int64)),
            "labels": sha256_of_arrays({"labels": part.labels}),
            "shape": list(part.inputs.shape),
        }
        for name, part in parts.items()
    }
    if mixing is not None:
        content["mixing"] = [mixing.window, sha256_of_arrays({"groups": mixing.groups})]
    return sha256_of_json({"task": task.kind, "targets": list(task.targets), "parts": content})
