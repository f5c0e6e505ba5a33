"""CIFAR-10 and CIFAR-100 from their original binary archives.

The Python version of the archives holds pickles, which run code when read; it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.images import ArrayImages
from edgekd.data.members import member_names, read_members
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, checked_part, class_names, required_path
from edgekd.data.task import Task

_SIDE = 32
_PIXEL_BYTES = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class CifarLayout:
    """Where things are in one of the two binary archives.

    Attributes:
        archive: File name of the archive.
        train: Files of the training part, in order.
        test: File of the test part.
        classes: Text file with the class names.
        num_classes: How many there must be.
        label_bytes: Bytes before the pixels of a record; the last of them is the label.
        pickles: Folder that the Python version of the archive unpacks to.
    """

    archive: str
    train: tuple[str, ...]
    test: str
    classes: str
    num_classes: int
    label_bytes: int
    pickles: str

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that must be there."""
        return (*self.train, self.test, self.classes)

    @property
    def needs(self) -> str:
        """What a path must point to, in words."""
        return f"{self.archive} (the binary version), or the folder with {self.train[0]} and the other files of it"


CIFAR10 = CifarLayout(
    archive="cifar-10-binary.tar.gz",
    train=tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
    test="test_batch.bin",
    classes="batches.meta.txt",
    num_classes=10,
    label_bytes=1,
    pickles="cifar-10-batches-py",
)
CIFAR100 = CifarLayout(
    archive="cifar-100-binary.tar.gz",
    train=("train.bin",),
    test="test.bin",
    classes="fine_label_names.txt",
    num_classes=100,
    label_bytes=2,
    pickles="cifar-100-python",
)


def load_cifar(config: DataConfig, *, layout: CifarLayout) -> Source:
    """Read a CIFAR data set.

    Args:
        config: `path` gives the archive, a folder that holds it, or the unpacked folder.
        layout: Which of the two.

    Returns:
        Its training and test part, 32x32 RGB; CIFAR-100 with its fine labels.

    Raises:
        DataError: The Python version, a damaged file, or a label out of range.
        PreconditionError: Nothing at the path, or a file is absent.
    """
    location = required_path(config, layout.needs)
    if location.is_dir() and (location / layout.archive).is_file():
        location = location / layout.archive
    content = read_members(location, layout.files)
    absent = [name for name in layout.files if name not in content]
    if absent:
        raise _absence(location, layout, absent)
    names = class_names(content[layout.classes], f"{location}: {layout.classes}")
    if len(names) != layout.num_classes:
        raise DataError(f"{location}: {layout.classes} holds {len(names)} class names, not {layout.num_classes}")
    train, test = (_part(location, layout, content, files) for files in (layout.train, (layout.test,)))
    return Source(Task("classification", names), train, test)


def _absence(location: Path, layout: CifarLayout, absent: list[str]) -> DataError | PreconditionError:
    is_pickled = location.name == layout.pickles or any(layout.pickles in name for name in member_names(location))
    if is_pickled:
        return DataError(
            f"{location}: this is the Python version of the archive; its pickle files can run code and are never read. "
            f"Take {layout.archive} instead (same pictures, same order)"
        )
    return PreconditionError(f"{location}: {', '.join(absent)} not found; data.path must be {layout.needs}")


def _part(location: Path, layout: CifarLayout, content: Mapping[str, bytes], files: tuple[str, ...]) -> Part:
    record_bytes = layout.label_bytes + _PIXEL_BYTES
    for name in files:
        if len(content[name]) % record_bytes:
            raise DataError(
                f"{location}: {name} is {len(content[name]):,} bytes, not a whole number of {record_bytes}-byte "
                "records; it is cut short or of another data set"
            )
    records = np.frombuffer(b"".join(content[name] for name in files), np.uint8).reshape(-1, record_bytes)
    planes = records[:, layout.label_bytes :].reshape(-1, 3, _SIDE, _SIDE)
    images = ArrayImages(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
    return checked_part(images, records[:, layout.label_bytes - 1], layout.num_classes, f"{location}: {files[0]}")


for _name, _layout in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
    DATASETS.add(_name, DatasetKind(partial(load_cifar, layout=_layout), augmentation="crop-flip", needs=_layout.needs))
