"""The tasks that methods are compared on: data, pairs of networks, and one set of training settings for all methods.

`fashion-mnist` is the one that a CPU finishes. It was chosen on held-out images, with `plain` and `kd` alone, among
2,000 and 4,000 training images, 14 and 16 pixels, students of width 4 and 8, batches of 64 and 128, and teachers of
depth 8, 14 and 20. Taken was the cheapest with a clear gain: held-out 80.2 ± 0.4 % (`plain`) and 81.8 ± 0.5 % (`kd`)
over three seeds, teacher 87 %, a quarter of a minute a run. Longer runs and wider students gained no more and cost
twice; batches of 128 spread three times as much. Pictures are shifted by one pixel and not mirrored: shoes of the set
point one way, and mirrors with crops of four pixels, as for CIFAR, cost plain training three points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import unknown_name
from edgekd.data import ArrayImages, DataConfig, Dataset, Split, load_dataset
from edgekd.data.splits import limited_rows
from edgekd.data.statistics import channel_statistics
from edgekd.distill import TrainSettings

_WATCHED_IMAGES = 1000


@dataclass(frozen=True, eq=False)
class StudyData:
    """What a suite trains and judges on.

    Attributes:
        dataset: For training; its held-out split is small, since the loop looks at it after every epoch.
        val: Held-out images on which a method may be designed, or None where the protocol holds none out.
    """

    dataset: Dataset
    val: Split | None


@dataclass(frozen=True)
class Suite:
    """One task.

    Attributes:
        pairs: Teacher and student by name of the pair, as `parse_net` reads them.
        settings: The same for every method.
        teacher_epochs: Epochs the teachers are trained for, with the same settings otherwise.
        load: `load(path, limit)` reads the data.
        methods: What to compare when nothing else is asked for; empty for every recipe.
    """

    pairs: Mapping[str, tuple[str, str]]
    settings: TrainSettings
    teacher_epochs: int
    load: Callable[[str | None, int | None], StudyData]
    methods: tuple[str, ...] = ()


def digits(path: str | None, limit: int | None) -> StudyData:
    """The demo's task: 8x8 digits, 1,222 training images."""
    return _watched(load_dataset(DataConfig(name="digits", limit=limit)))


def fashion_mnist(path: str | None, limit: int | None) -> StudyData:
    """Fashion-MNIST at 14x14: 4,000 training images, 10,000 held out, the 10,000 test images."""
    whole = load_dataset(DataConfig(name="fashion-mnist", path=path, resolution=14, val_fraction=1 / 6))
    return _watched(_cut(whole, limit or 4000, limit))


def cifar10_small(path: str | None, limit: int | None) -> StudyData:
    """CIFAR-10 as picture strips: 3,400 training images, 600 held out, 1,000 test images."""
    return _watched(load_dataset(DataConfig(name="cifar-strips", path=path, limit=limit)))


def cifar100(path: str | None, limit: int | None) -> StudyData:
    """CIFAR-100 by the published protocol: all 50,000 training images, nothing held out, 10,000 test images."""
    name = "packed" if path is not None and Path(path).is_dir() else "cifar100"
    loaded = load_dataset(DataConfig(name=name, path=path, val_fraction=0.02))
    whole = dataclasses.replace(loaded, train=_joined(loaded.train, loaded.val))
    cut = _cut(whole, len(whole.train) if limit is None else limit, limit)
    return StudyData(dataclasses.replace(cut, val=_first(cut.train, _WATCHED_IMAGES)), None)


def suite(name: str) -> Suite:
    """Return a suite by name; raises `ConfigError` for an unknown name."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]


def _watched(dataset: Dataset) -> StudyData:
    return StudyData(dataclasses.replace(dataset, val=_first(dataset.val, _WATCHED_IMAGES)), dataset.val)


def _cut(dataset: Dataset, train_images: int, other_images: int | None = None) -> Dataset:
    """Keep some training images, and perhaps fewer of the others, in memory and with their own statistics."""
    train = _limited(dataset.train, train_images)
    val, test = _limited(dataset.val, other_images), _limited(dataset.test, other_images)
    statistics = channel_statistics(train.inputs)
    digest = sha256_of_json([dataset.digest, train_images, other_images])
    return dataclasses.replace(
        dataset, train=train, val=val, test=test, mean=statistics.mean, std=statistics.std, digest=digest
    )


def _limited(split: Split, count: int | None) -> Split:
    rows = limited_rows(split.labels, limit=count, seed=0)
    return Split(ArrayImages(split.inputs.gather(rows)), split.labels[rows], split.task)


def _first(split: Split, count: int) -> Split:
    rows = np.arange(min(count, len(split)), dtype=np.int64)
    return Split(ArrayImages(split.inputs.gather(rows)), split.labels[rows], split.task)


def _joined(one: Split, other: Split) -> Split:
    rows = [np.arange(len(split), dtype=np.int64) for split in (one, other)]
    pixels = np.concatenate([one.inputs.gather(rows[0]), other.inputs.gather(rows[1])])
    return Split(ArrayImages(pixels), np.concatenate([one.labels, other.labels]), one.task)


_CIFAR = TrainSettings(epochs=240, batch_size=64, lr=0.05, schedule="multistep", augment="crop-flip", select="last")

SUITES: Mapping[str, Suite] = {
    "digits": Suite(
        {"": ("resnet20-w16", "resnet8-w2")},
        TrainSettings(epochs=30, batch_size=64, lr=0.05, select="last"),
        teacher_epochs=30,
        load=digits,
    ),
    "fashion-mnist": Suite(
        {"": ("resnet14-w16", "resnet8-w4")},
        TrainSettings(epochs=20, batch_size=64, lr=0.05, augment="shift", select="last"),
        teacher_epochs=40,
        load=fashion_mnist,
    ),
    "cifar10-small": Suite(
        {"": ("resnet20-w16", "resnet8-w8")},
        TrainSettings(epochs=30, batch_size=64, lr=0.05, augment="crop-flip", select="last"),
        teacher_epochs=60,
        load=cifar10_small,
    ),
    "cifar100": Suite(
        {
            "resnet32x4-resnet8x4": (
                "resnet:depth=32,width=64,stem=half,shortcut=B",
                "resnet:depth=8,width=64,stem=half,shortcut=B",
            ),
            "wrn40_2-wrn16_2": ("wrn:depth=40,width=32", "wrn:depth=16,width=32"),
            "resnet56-resnet20": ("resnet:depth=56,width=16,shortcut=B", "resnet:depth=20,width=16,shortcut=B"),
            "vgg13-vgg8": ("vgg:depth=13,width=64,bias=yes", "vgg:depth=8,width=64,bias=yes"),
        },
        _CIFAR,
        teacher_epochs=240,
        load=cifar100,
        methods=("plain", "kd", "sp", "vid", "dkd", "mas", "sskd"),
    ),
}
