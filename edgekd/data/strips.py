"""Picture strips: a compact store of small square pictures, stacked top to bottom in lossless WebP files.

`train/NNN.webp` and `test/NNN.webp` (W wide, n x W high), `train_labels.u8` and `test_labels.u8` (one byte a picture),
`classes.txt` (one name a line), in a zip or in a folder.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.images import ArrayImages, Pixels
from edgekd.data.members import read_members
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, checked_part, class_names, required_path
from edgekd.data.task import Task

NEEDS = "a zip or folder with train/*.webp, test/*.webp, train_labels.u8, test_labels.u8 and classes.txt"
_FILES = ("train_labels.u8", "test_labels.u8", "classes.txt")
_PATTERNS = ("train/*.webp", "test/*.webp", *_FILES)
_MAX_SIDE = 1024


def load_strips(config: DataConfig) -> Source:
    """Read a data set stored as strips.

    Args:
        config: `path` gives the zip or the folder.

    Returns:
        Its training and test part, RGB.

    Raises:
        DataError: A strip is damaged or not made of squares, counts differ, or a label is out of range.
        PreconditionError: Nothing at the path, or a file is absent.
    """
    location = required_path(config, NEEDS)
    content = read_members(location, _PATTERNS)
    absent = [name for name in _FILES if name not in content]
    absent += [f"{part}/*.webp" for part in ("train", "test") if not any(key.startswith(f"{part}/") for key in content)]
    if absent:
        raise PreconditionError(f"{location}: {', '.join(absent)} not found; data.path must be {NEEDS}")
    names = class_names(content["classes.txt"], f"{location}: classes.txt")
    train, test = (_part(location, content, part, len(names)) for part in ("train", "test"))
    return Source(Task("classification", names), train, test)


def _part(location: Path, content: Mapping[str, bytes], part: str, num_classes: int) -> Part:
    strips = [_pictures_of(content[name], f"{location}: {name}") for name in content if name.startswith(f"{part}/")]
    sides = sorted({strip.shape[1] for strip in strips})
    if len(sides) > 1:
        raise DataError(f"{location}: {part} strips are {' and '.join(map(str, sides))} pixels wide, not all the same")
    labels = np.frombuffer(content[f"{part}_labels.u8"], np.uint8)
    return checked_part(ArrayImages(np.concatenate(strips)), labels, num_classes, f"{location}: {part}")


def _pictures_of(content: bytes, origin: str) -> Pixels:
    try:
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as strip:
            width, height = strip.size
            if width > _MAX_SIDE or height % width:
                raise DataError(
                    f"{origin}: {width} x {height} pixels is not a stack of squares at most {_MAX_SIDE} pixels wide"
                )
            return np.asarray(strip.convert("RGB")).reshape(height // width, width, width, 3)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{origin}: not a readable WebP picture: {error}") from error


DATASETS.add("cifar-strips", DatasetKind(load_strips, augmentation="crop-flip", needs=NEEDS))
