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
from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.inputs import Rows
from edgekd.data.picture_files import FileImages, stored_grey
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, checked_part, required_path
from edgekd.data.splits import held_out_rows
from edgekd.data.task import Task

NEEDS = "a folder with train/<class>/ and test/<class>/ (or val/<class>/), or with <class>/ folders alone"
TEST_FRACTION = 0.2
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
    resolution: int
    is_grey: bool

    def part(self, listing: _Listing, num_classes: int, origin: str) -> Part:
        images = FileImages(self.root, listing.names, resolution=self.resolution, is_grey=self.is_grey)
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
        raise DataError(f"{root}: holds no class folder; data.path must be {NEEDS}")
    listings = {"train": _listing(root, train_folder, classes)}
    if has_parts:
        listings |= _evaluation_listings(root, classes)
    return _source(root, classes, listings, config.resolution)


def _source(root: Path, classes: tuple[str, ...], listings: dict[str, _Listing], resolution: int) -> Source:
    is_grey, sampled = stored_grey(root, listings["train"].names)
    decoding = _Decoding(root, resolution, is_grey)
    task = Task("classification", classes)
    parts = {name: decoding.part(item, len(classes), f"{root}: {name}") for name, item in listings.items()}
    colour = f"{'grey' if is_grey else 'RGB'} pictures, by the stored modes of {sampled} training files"
    notes = (colour, *_ignored_note(listings), *_missing_note(classes, listings))
    if len(parts) == 1:
        seed = derive_seed(0, "folder", "test")
        kept, held_out = held_out_rows(listings["train"].labels, fraction=TEST_FRACTION, seed=seed)
        note = f"test part: a fixed stratified {TEST_FRACTION:.0%} of all pictures"
        return Source(task, parts["train"].take(kept), parts["train"].take(held_out), notes=(*notes, note))
    if "test" not in parts:
        note = "test part: val/; the held-out split is made from train/"
        return Source(task, parts["train"], parts["val"], notes=(*notes, note))
    if "val" in parts:
        notes = (*notes, "held-out split: val/, as the folder brings it")
    return Source(task, parts["train"], parts["test"], val=parts.get("val"), notes=notes)


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    try:
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _files_below(folder: Path, root: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    walk = os.walk(folder, onerror=refuse)
    return sorted((Path(parent) / name).relative_to(root).as_posix() for parent, _, names in walk for name in names)


def _evaluation_listings(root: Path, classes: tuple[str, ...]) -> dict[str, _Listing]:
    listings = {}
    for name in ("test", "val"):
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
        files = _files_below(class_folder, root)
        pictures = [name for name in files if _is_picture(name)]
        if not pictures:
            raise DataError(f"{class_folder}: holds no picture ({', '.join(SUFFIXES)}); add some or remove the folder")
        names += pictures
        labels += [label] * len(pictures)
        ignored += [name for name in files if not _is_picture(name)]
    return _Listing(tuple(names), np.array(labels, np.int64), tuple(ignored))


def _is_picture(name: str) -> bool:
    file_name = name.rpartition("/")[2].lower()
    return file_name.endswith(SUFFIXES) and not file_name.startswith(".")


def _ignored_note(listings: dict[str, _Listing]) -> tuple[str, ...]:
    ignored = [name for listing in listings.values() for name in listing.ignored]
    return (f"ignored {len(ignored)} files that are not pictures, such as {ignored[0]}",) if ignored else ()


def _missing_note(classes: tuple[str, ...], listings: dict[str, _Listing]) -> tuple[str, ...]:
    notes = []
    for name, listing in listings.items():
        present = set(listing.labels.tolist())
        missing = [class_name for label, class_name in enumerate(classes) if label not in present]
        if missing:
            notes.append(f"{name} has no picture of {len(missing)} classes, such as {missing[0]}")
    return tuple(notes)


DATASETS.add("folder", DatasetKind(load_folder, augmentation="shift", needs=NEEDS))
