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
from edgekd.data.dataset import ImageDataset, Split
from edgekd.data.images import PictureStore, ResizedImages
from edgekd.data.sources import DATASETS, Part, Source
from edgekd.data.splits import held_out_rows, limited_rows
from edgekd.data.statistics import channel_statistics


def load_dataset(config: DataConfig) -> ImageDataset:
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
    parts = {name: _resized(part, config) for name, part in _divided(source, config).items()}
    _check_shapes({name: part.images.shape for name, part in parts.items()}, config)
    _check_classes(parts["train"], source.classes, config)
    statistics = channel_statistics(parts["train"].images)
    notes = source.notes
    if statistics.pictures < len(parts["train"].labels):
        notes += (f"mean and std: from {statistics.pictures} evenly spaced training pictures",)
    return ImageDataset(
        name=config.name,
        classes=source.classes,
        train=Split(parts["train"].images, parts["train"].labels),
        val=Split(parts["val"].images, parts["val"].labels),
        test=Split(parts["test"].images, parts["test"].labels),
        mean=statistics.mean,
        std=statistics.std,
        digest=_digest(source.classes, parts),
        notes=notes,
    )


def _divided(source: Source, config: DataConfig) -> dict[str, Part]:
    train = _limited(source.train, config.limit, derive_seed(config.seed, "data", "limit"))
    test = _limited(source.test, config.limit, derive_seed(0, "data", "limit", "test"))
    if source.val is not None:
        val = _limited(source.val, config.limit, derive_seed(config.seed, "data", "limit", "val"))
        return {"train": train, "val": val, "test": test}
    seed = derive_seed(config.seed, "data", "val")
    kept, held_out = held_out_rows(train.labels, fraction=config.val_fraction, seed=seed)
    return {"train": train.take(kept), "val": train.take(held_out), "test": test}


def _limited(part: Part, limit: int | None, seed: int) -> Part:
    return part.take(limited_rows(part.labels, limit=limit, seed=seed))


def _resized(part: Part, config: DataConfig) -> Part:
    _, height, width = part.images.shape
    if config.resolution is None or (height, width) == (config.resolution, config.resolution):
        return part
    images: PictureStore = ResizedImages(part.images, config.resolution)
    return Part(images, part.labels)


def _check_shapes(shapes: dict[str, tuple[int, int, int]], config: DataConfig) -> None:
    if len(set(shapes.values())) > 1:
        raise DataError(f"data set {config.name!r}: pictures [C, H, W] differ between parts: {shapes}")
    _, height, width = shapes["train"]
    if height != width:
        raise ConfigError(f"data set {config.name!r}: pictures are {width} x {height} pixels; set data.resolution")


def _check_classes(train: Part, classes: tuple[str, ...], config: DataConfig) -> None:
    counts = np.bincount(train.labels, minlength=len(classes))
    absent = [classes[label] for label in np.flatnonzero(counts == 0)]
    if absent:
        limit = "" if config.limit is None else f" under data.limit {config.limit}"
        raise DataError(
            f"data set {config.name!r}: {len(absent)} of {len(classes)} classes have no training picture{limit}: "
            f"{', '.join(absent[:5])}"
        )


def _digest(classes: tuple[str, ...], parts: dict[str, Part]) -> str:
    content = {
        name: {
            "images": part.images.fingerprint(np.arange(len(part.labels), dtype=np.int64)),
            "labels": sha256_of_arrays({"labels": part.labels}),
            "shape": list(part.images.shape),
        }
        for name, part in parts.items()
    }
    return sha256_of_json({"classes": list(classes), "parts": content})
