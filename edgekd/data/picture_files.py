"""Picture files of any format and mode, decoded when they are needed, each failure naming its file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from edgekd.core.digest import sha256_of_bytes, sha256_of_json
from edgekd.core.errors import DataError
from edgekd.data.images import Pixels, fitted
from edgekd.data.inputs import Rows

_SAMPLED_FILES = 64
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class FileImages:
    """Picture files, decoded when gathered.

    Args:
        root: Folder that names are relative to.
        names: POSIX path of each file below `root`.
        resolution: Height and width to return, in pixels.
        is_grey: Return one channel instead of three.
    """

    def __init__(self, root: Path, names: Sequence[str], *, resolution: int, is_grey: bool) -> None:
        self._root = root
        self._names = tuple(names)
        self._resolution = resolution
        self._mode = "L" if is_grey else "RGB"

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every picture."""
        return (len(self._mode), self._resolution, self._resolution)

    def __len__(self) -> int:
        return len(self._names)

    def gather(self, indices: Rows) -> Pixels:
        """Return the pictures of these rows, uint8 `[n, H, W, C]`.

        Raises:
            DataError: A file is gone or cannot be decoded.
        """
        channels, height, width = self.shape
        pixels = np.empty((len(indices), height, width, channels), np.uint8)
        for row, index in enumerate(indices):
            picture = decoded(self._root / self._names[index], self._mode)
            pixels[row] = np.asarray(fitted(picture, self._resolution)).reshape(height, width, channels)
        return pixels

    def fingerprint(self, indices: Rows) -> str:
        """Return a SHA-256 over names, sizes and contents of the files, each checked on the way.

        Raises:
            DataError: A file is gone or is not a picture.
        """
        files = []
        for index in indices:
            content = checked_content(self._root / self._names[index])
            files.append([self._names[index], len(content), sha256_of_bytes(content)])
        return sha256_of_json(["files", self._mode, self._resolution, files])


def decoded(path: Path, mode: str) -> Image.Image:
    """Decode a file, turn it upright by its EXIF orientation and convert it; transparency is dropped.

    Args:
        path: A picture file.
        mode: `"L"` (grey) or `"RGB"`; 16-bit grey is scaled to 8 bits, not cut off.

    Raises:
        DataError: The file cannot be read or decoded, or has 32-bit pixels, whose range nobody can know.
    """
    try:
        with Image.open(path) as stored:
            is_sixteen_bit = stored.mode.startswith("I;16") or (stored.mode == "I" and stored.format in ("PNG", "PPM"))
            if stored.mode in ("I", "F") and not is_sixteen_bit:
                raise DataError(f"{path}: has 32-bit pixels (mode {stored.mode}); save it with 8 or 16 bits")
            upright = ImageOps.exif_transpose(stored)
    except _UNREADABLE as error:
        raise _corrupt(path, error) from error
    return (_eight_bit(upright) if is_sixteen_bit else upright).convert(mode)


def checked_content(path: Path) -> bytes:
    """Return a file's bytes after checking that they start as a picture and, where the format has them, its checksums.

    Raises:
        DataError: It cannot be read or is not a picture.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()
    except _UNREADABLE as error:
        raise _corrupt(path, error) from error
    return content


def stored_grey(root: Path, names: Sequence[str]) -> tuple[bool, int]:
    """Say whether pictures are stored without colour, from the headers of at most 64 evenly spaced files.

    Args:
        root: Folder that names are relative to.
        names: POSIX path of each file below `root`.

    Returns:
        Whether all headers read are of a grey mode, and how many were read.

    Raises:
        DataError: A file cannot be read or is not a picture.
    """
    step = -(-len(names) // _SAMPLED_FILES) or 1
    sample = names[::step]
    return all(_is_grey_mode(_stored_mode(root / name)) for name in sample), len(sample)


def _stored_mode(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return picture.mode
    except _UNREADABLE as error:
        raise _corrupt(path, error) from error


def _is_grey_mode(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16")


def _eight_bit(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _corrupt(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path}: cannot be read as a picture ({error}); replace or remove it")
