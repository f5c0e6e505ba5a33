"""Packed pictures: a whole data set in a few NumPy files that load in a second and travel in small pieces.

`train-NNN.npz` and `test-NNN.npz` hold `images` (uint8 `[n, H, W, C]`) and `labels` (uint8 or int64 `[n]`),
`classes.txt` one name a line, in a zip or in a folder. `tools/bench/pack_images.py` writes them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.images import ArrayImages
from edgekd.data.members import MAX_MEMBER_BYTES, read_members
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, checked_part, class_names, required_path
from edgekd.data.task import Task

NEEDS = "a zip or folder with train-*.npz, test-*.npz and classes.txt"
_PATTERNS = ("train-*.npz", "test-*.npz", "classes.txt")


def load_packed(config: DataConfig) -> Source:
    """Read a packed data set.

    Args:
        config: `path` gives the zip or the folder.

    Returns:
        Its training and test part.

    Raises:
        DataError: A piece is damaged or of another kind, shapes or counts differ, or a label is out of range.
        PreconditionError: Nothing at the path, or a file is absent.
    """
    location = required_path(config, NEEDS)
    content = read_members(location, _PATTERNS)
    absent = [pattern for pattern in _PATTERNS if not any(name.startswith(pattern.split("*")[0]) for name in content)]
    if absent:
        raise PreconditionError(f"{location}: {', '.join(absent)} not found; data.path must be {NEEDS}")
    names = class_names(content["classes.txt"], f"{location}: classes.txt")
    train, test = (_part(str(location), content, part, len(names)) for part in ("train", "test"))
    return Source(Task("classification", names), train, test)


def _part(location: str, content: Mapping[str, bytes], part: str, num_classes: int) -> Part:
    pieces = [_arrays(data, f"{location}: {name}") for name, data in content.items() if name.startswith(f"{part}-")]
    shapes = sorted({piece["images"].shape[1:] for piece in pieces})
    if len(shapes) > 1:
        raise DataError(f"{location}: {part} pieces hold pictures [H, W, C] of {' and '.join(map(str, shapes))}")
    images = ArrayImages(np.concatenate([piece["images"] for piece in pieces]))
    return checked_part(images, np.concatenate([piece["labels"] for piece in pieces]), num_classes, location)


def _arrays(content: bytes, origin: str) -> dict[str, NDArray[np.uint8]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            stated = sum(info.file_size for info in archive.infolist())
        if stated > MAX_MEMBER_BYTES:
            raise DataError(f"{origin}: unpacks to {stated:,} bytes, at most {MAX_MEMBER_BYTES:,} are read")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("images", "labels")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{origin}: not a piece with the arrays images and labels: {error}") from error


DATASETS.add("packed", DatasetKind(load_packed, augmentation="crop-flip", needs=NEEDS))
