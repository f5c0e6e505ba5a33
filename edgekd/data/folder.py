"""Folders of picture files, one subfolder a class.

Two layouts: `train/<class>/...` with `test/` or `val/` (or both) beside it, or `<class>/...` alone, which is split
three ways. Pictures are resized so that the shorter side is the resolution, and centre-cropped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.contents import FileContents
from edgekd.data.inputs import Rows
from edgekd.data.parts import PartName, absent_classes, source_of_parts
from edgekd.data.pictures import Look, Pictures, stored_grey
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, checked_part, required_path
from edgekd.data.task import Task

NEEDS = "a folder with train/<class>/ and test/<class>/ (or val/<class>/), or with <class>/ folders alone"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class _Listing:
    """Picture files below one folder.

    Attributes:
        names: POSIX paths below the root, by class and then by name.
        labels: int64 `[N]`.
        ignored: Paths of the files that are no pictures by their suffix.
    """

    names: tuple[str, ...]
    labels: Rows
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class _Decoding:
    """How the files of one data set become pictures of one shape."""

    root: Path
    look: Look
    is_tolerant: bool

    def part(self, listing: _Listing, num_classes: int, origin: str) -> Part:
        images = Pictures(FileContents(self.root, listing.names), self.look, is_tolerant=self.is_tolerant)
        return checked_part(images, listing.labels, num_classes, origin)


def load_folder(config: DataConfig) -> Source:
    """List a folder of pictures; only the headers of a sample are read here.

    Args:
        config: `path` gives the folder, `resolution` the size that networks see.

    Returns:
        Its parts. A `val/` beside `test/` is the held-out part; a `val/` without `test/` is the test part, as in
        ImageNet. Pictures are grey (one channel) when all of up to 64 evenly spaced training files are stored grey,
        else RGB.

    Raises:
        ConfigError: No resolution.
        DataError: No class, a class without pictures, or one that the training part lacks.
        PreconditionError: Nothing at the path.
    """
    root = required_path(config, NEEDS)
    if not root.is_dir():
        raise PreconditionError(f"{root} is a file; data set {config.name!r} needs data.path: {NEEDS}")
    if config.resolution is None:
        raise ConfigError(f"data set {config.name!r} has pictures of any size: set data.resolution (pixels)")
    has_parts = bool(_class_folders(root / "train"))
    train_folder = root / "train" if has_parts else root
    classes = _class_folders(train_folder)
    if not classes:
        inside = [path.name for path in root.iterdir()]
        if any(map(is_picture, inside)):
            raise DataError(
                f"{root}: holds pictures but no class folders. If this is the folder of one class, give the one above "
                "it; pictures without labels go to data.unlabelled, next to a data set with labels"
            )
        if any(name.endswith((".tar", ".parquet")) for name in inside):
            raise DataError(f"{root}: holds shards or tables: take --data webdataset or --data parquet")
        raise DataError(f"{root}: holds no class folder; data.path must be {NEEDS}")
    listings: dict[PartName, _Listing] = {"train": _listing(root, train_folder, classes)}
    if has_parts:
        listings |= _evaluation_listings(root, classes)
    return _source(root, classes, listings, config)


def _source(root: Path, classes: tuple[str, ...], listings: dict[PartName, _Listing], config: DataConfig) -> Source:
    tolerant = config.max_corrupt > 0
    is_grey, sampled = stored_grey(FileContents(root, listings["train"].names), is_tolerant=tolerant)
    decoding = _Decoding(root, Look(config.resolution or 0, is_grey, config.decode == "fast"), tolerant)
    task = Task("classification", classes)
    parts = {name: decoding.part(item, len(classes), f"{root}: {name}") for name, item in listings.items()}
    colour = f"{'grey' if is_grey else 'RGB'} pictures, by the stored modes of {sampled} training files"
    notes = (colour, *_ignored_note(listings), *absent_classes(task, parts))
    return source_of_parts(task, parts, kind="folder", notes=notes)


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    try:
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def files_below(folder: Path, root: Path) -> list[str]:
    """List all files below a folder, sorted: POSIX paths below `root`; raises `DataError` where a folder refuses."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    walk = os.walk(folder, onerror=refuse)
    return sorted((Path(parent) / name).relative_to(root).as_posix() for parent, _, names in walk for name in names)


def _evaluation_listings(root: Path, classes: tuple[str, ...]) -> dict[PartName, _Listing]:
    listings: dict[PartName, _Listing] = {}
    names: tuple[PartName, ...] = ("test", "val")
    for name in names:
        found = _class_folders(root / name)
        unknown = [folder for folder in found if folder not in classes]
        if unknown:
            raise DataError(f"{root / name}: class {', '.join(unknown[:5])} is not among the classes of train/")
        if found:
            listings[name] = _listing(root, root / name, classes)
    if not listings:
        raise DataError(f"{root}: has train/ but no class folders in test/ or val/; data.path must be {NEEDS}")
    return listings


def _listing(root: Path, folder: Path, classes: tuple[str, ...]) -> _Listing:
    names: list[str] = []
    labels: list[int] = []
    ignored: list[str] = []
    for label, class_name in enumerate(classes):
        class_folder = folder / class_name
        if not class_folder.is_dir():
            continue
        files = files_below(class_folder, root)
        pictures = [name for name in files if is_picture(name)]
        if not pictures:
            raise DataError(f"{class_folder}: holds no picture ({', '.join(SUFFIXES)}); add some or remove the folder")
        names += pictures
        labels += [label] * len(pictures)
        ignored += [name for name in files if not is_picture(name)]
    return _Listing(tuple(names), np.array(labels, np.int64), tuple(ignored))


def is_picture(name: str) -> bool:
    """Say whether a path is that of a picture by its suffix."""
    file_name = name.rpartition("/")[2].lower()
    return file_name.endswith(SUFFIXES) and not file_name.startswith(".")


def _ignored_note(listings: dict[PartName, _Listing]) -> tuple[str, ...]:
    ignored = [name for listing in listings.values() for name in listing.ignored]
    return (f"ignored {len(ignored)} files that are not pictures, such as {ignored[0]}",) if ignored else ()


DATASETS.add("folder", DatasetKind(load_folder, augmentation="shift", needs=NEEDS))
