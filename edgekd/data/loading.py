"""From a stored data set to the one a run uses: limited, split, resized, measured and digested.

The order is fixed: `limit` first, then `val` out of what is left of the training part, then statistics on `train`
alone.
"""

from __future__ import annotations

import numpy as np

from edgekd.core.digest import sha256_of_arrays, sha256_of_json
from edgekd.core.errors import ConfigError, DataError
from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.dataset import Dataset, Split, class_counts
from edgekd.data.images import ResizedImages
from edgekd.data.sources import DATASETS, Part, Source
from edgekd.data.splits import held_out_rows, limited_rows
from edgekd.data.statistics import channel_statistics
from edgekd.data.task import Task


def load_dataset(config: DataConfig) -> Dataset:
    """Load the data set that a configuration names.

    Args:
        config: The `data:` section.

    Returns:
        Its three splits with statistics of the training split. The held-out split depends on `config.seed`, the test
        split does not.

    Raises:
        ConfigError: Unknown name, or options that do not fit the data set.
        DataError: The data are damaged, inconsistent or too few.
        PreconditionError: The data are not on this machine.
    """
    source = DATASETS[config.name].load(config)
    _check_options(source, config)
    parts = {name: _resized(part, source.task, config) for name, part in _divided(source, config).items()}
    _check_shapes({name: part.inputs.shape for name, part in parts.items()}, config)
    splits = {name: Split(part.inputs, part.labels, source.task) for name, part in parts.items()}
    _check_targets(splits["train"], config)
    mean, std, notes = _statistics(splits["train"])
    return Dataset(
        name=config.name,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        mean=mean,
        std=std,
        digest=_digest(source.task, parts),
        notes=(*source.notes, *notes),
        tokenizer=source.tokenizer,
    )


def _check_options(source: Source, config: DataConfig) -> None:
    given = [name for name in ("length", "vocabulary", "vocabulary_size") if getattr(config, name) is not None]
    if given and source.tokenizer is None:
        raise ConfigError(f"data set {config.name!r} holds no texts: remove data.{', data.'.join(given)}")


def _divided(source: Source, config: DataConfig) -> dict[str, Part]:
    def limited(part: Part, seed: int) -> Part:
        return part.take(limited_rows(source.task.strata(part.labels), limit=config.limit, seed=seed))

    train = limited(source.train, derive_seed(config.seed, "data", "limit"))
    test = limited(source.test, derive_seed(0, "data", "limit", "test"))
    if source.val is not None:
        val = limited(source.val, derive_seed(config.seed, "data", "limit", "val"))
        return {"train": train, "val": val, "test": test}
    strata, seed = source.task.strata(train.labels), derive_seed(config.seed, "data", "val")
    kept, held_out = held_out_rows(strata, fraction=config.val_fraction, seed=seed)
    return {"train": train.take(kept), "val": train.take(held_out), "test": test}


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
    return Part(ResizedImages(part.inputs, config.resolution), part.labels)


def _check_shapes(shapes: dict[str, tuple[int, ...]], config: DataConfig) -> None:
    if len(set(shapes.values())) > 1:
        raise DataError(f"data set {config.name!r}: inputs differ in shape between parts: {shapes}")
    shape = shapes["train"]
    if len(shape) == 3 and shape[1] != shape[2]:
        raise ConfigError(f"data set {config.name!r}: pictures are {shape[2]} x {shape[1]} pixels; set data.resolution")


def _statistics(train: Split) -> tuple[tuple[float, ...], tuple[float, ...], tuple[str, ...]]:
    if len(train.inputs.shape) != 3:
        return (), (), ()
    found = channel_statistics(train.inputs)
    note = f"mean and std: from {found.pictures} evenly spaced training pictures"
    return found.mean, found.std, (note,) if found.pictures < len(train) else ()


def _check_targets(train: Split, config: DataConfig) -> None:
    """Refuse training labels from which a target cannot be learnt: a class without example, a constant quantity."""
    task = train.task
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


def _digest(task: Task, parts: dict[str, Part]) -> str:
    content = {
        name: {
            "inputs": part.inputs.fingerprint(np.arange(len(part.labels), dtype=np.int64)),
            "labels": sha256_of_arrays({"labels": part.labels}),
            "shape": list(part.inputs.shape),
        }
        for name, part in parts.items()
    }
    return sha256_of_json({"task": task.kind, "targets": list(task.targets), "parts": content})
