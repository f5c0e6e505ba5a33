"""IDX files: MNIST, Fashion-MNIST and any set stored as they are, four files of raw bytes, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.images import ArrayImages
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, checked_part, required_path
from edgekd.data.task import Task

MAX_IDX_BYTES = 1 << 32
NEEDS = "the folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files (.gz or not)"
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_DIGITS = tuple(str(digit) for digit in range(10))
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_UINT8 = 0x08


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: The file; gzipped when it ends in `.gz`.
        axes: Number of axes expected (3 for pictures, 1 for labels).

    Returns:
        uint8 array of the shape that the header states.

    Raises:
        DataError: Not such a file, cut short, or longer than its header states.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            header = stream.read(4 + 4 * axes)
            shape = _shape_of(header, axes, path)
            size_bytes = math.prod(shape)
            content = stream.read(size_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, it may be damaged or cut short: {error}") from error
    if len(content) != size_bytes:
        found = f"{len(content):,}" if len(content) < size_bytes else f"more than {size_bytes:,}"
        raise DataError(f"{path}: header states {list(shape)} = {size_bytes:,} bytes, but {found} follow it")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape_of(header: bytes, axes: int, path: Path) -> tuple[int, ...]:
    expected = bytes([0, 0, _UINT8, axes])
    if len(header) != 4 + 4 * axes or header[:4] != expected:
        raise DataError(
            f"{path}: starts with {header[:4].hex() or 'nothing'}, an IDX file of bytes with {axes} axes starts with "
            f"{expected.hex()} and {axes} sizes"
        )
    shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))
    if math.prod(shape) > MAX_IDX_BYTES:
        raise DataError(f"{path}: header states {list(shape)}, more than {MAX_IDX_BYTES:,} bytes")
    return shape


def load_idx(config: DataConfig, *, classes: tuple[str, ...] = (), default_folder: Path | None = None) -> Source:
    """Read the four files of an IDX data set.

    Args:
        config: `path` gives the folder.
        classes: Class names; empty to take `0..highest training label`.
        default_folder: Where to look when no path is given.

    Returns:
        Its training and test part.

    Raises:
        DataError: A file is damaged, counts differ, or a label is out of range.
        PreconditionError: No folder, or a file is absent.
    """
    if config.path is None and default_folder is not None and default_folder.is_dir():
        folder = default_folder
    else:
        hint = f"; Debian's package dataset-fashion-mnist puts it into {default_folder}" if default_folder else ""
        folder = required_path(config, NEEDS + hint)
    train_labels = read_idx(_file_in(folder, "train-labels", 1), 1)
    names = classes or tuple(str(label) for label in range(int(train_labels.max(initial=0)) + 1))
    train = _part(folder, "train", train_labels, names)
    test = _part(folder, "t10k", read_idx(_file_in(folder, "t10k-labels", 1), 1), names)
    return Source(Task("classification", names), train, test)


def _part(folder: Path, stem: str, labels: NDArray[np.uint8], classes: tuple[str, ...]) -> Part:
    path = _file_in(folder, f"{stem}-images", 3)
    return checked_part(ArrayImages(read_idx(path, 3)[..., np.newaxis]), labels, len(classes), str(path))


def _file_in(folder: Path, stem: str, axes: int) -> Path:
    names = [f"{stem}{mark}idx{axes}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise PreconditionError(f"{folder}: {names[0]} (or {names[1]}) is absent; data.path must be {NEEDS}")


DATASETS.add("idx", DatasetKind(load_idx, augmentation="shift", needs=NEEDS))
DATASETS.add("mnist", DatasetKind(partial(load_idx, classes=_DIGITS), augmentation="shift", needs=NEEDS))
DATASETS.add(
    "fashion-mnist",
    DatasetKind(
        partial(load_idx, classes=_FASHION, default_folder=DEBIAN_FASHION_MNIST),
        augmentation="crop-flip",
        needs=f"{NEEDS}; not needed where {DEBIAN_FASHION_MNIST} exists",
    ),
)
