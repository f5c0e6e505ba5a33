"""Encoded pictures of any format and mode, decoded when they are needed, each failure naming its picture."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from edgekd.core.digest import sha256_of_bytes, sha256_of_json
from edgekd.core.errors import CorruptInput
from edgekd.data.contents import Contents
from edgekd.data.images import Pixels, fitted
from edgekd.data.inputs import Rows

_SAMPLED_HEADERS = 64
_SAMPLED_CONTENTS = 4096
_WHOLE_BYTES = 1 << 30
_DRAFT = 2
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Look:
    """How encoded pictures become pixels of one shape.

    Attributes:
        resolution: Height and width, in pixels.
        is_grey: One channel instead of three.
        is_fast: Decode a JPEG at the smallest eighth that is still twice the resolution; other pixels than exactly.
    """

    resolution: int
    is_grey: bool
    is_fast: bool = False

    @property
    def mode(self) -> str:
        """Pillow's name for the colours."""
        return "L" if self.is_grey else "RGB"


class Pictures:
    """Encoded pictures, decoded when gathered.

    Args:
        contents: Where they lie.
        look: What they become.
        is_tolerant: Leave it to who gathers to find pictures that cannot be decoded; `fingerprint` checks none.
    """

    def __init__(self, contents: Contents, look: Look, *, is_tolerant: bool = False) -> None:
        self._contents = contents
        self._look = look
        self._is_tolerant = is_tolerant

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every picture."""
        return (len(self._look.mode), self._look.resolution, self._look.resolution)

    def __len__(self) -> int:
        return len(self._contents)

    def gather(self, indices: Rows) -> Pixels:
        """Return the pictures of these rows, uint8 `[n, H, W, C]`; they are read in the order in which they lie.

        Raises:
            CorruptInput: One cannot be decoded.
            DataError: One cannot be reached.
        """
        channels, height, width = self.shape
        pixels = np.empty((len(indices), height, width, channels), np.uint8)
        for position in np.argsort(indices, kind="stable"):
            row = int(indices[position])
            picture = decoded(self._contents.read(row), self._contents.name(row), self._look)
            pixels[position] = np.asarray(fitted(picture, height)).reshape(height, width, channels)
        return pixels

    def fingerprint(self, indices: Rows) -> str:
        """Return a SHA-256 over names, sizes and contents of these pictures, each one read checked on the way.

        Of more than 1 GiB only 4,096 evenly spaced contents are read, so that a change of another one that keeps its
        size is not seen.

        Raises:
            CorruptInput: One is not a picture, and such ones are not left to who gathers.
            DataError: One cannot be reached.
        """
        look: list[Any] = [self._look.mode, self._look.resolution, *(["fast"] if self._look.is_fast else [])]
        sizes = self._contents.sizes(indices)
        if sizes.sum() <= _WHOLE_BYTES:
            return sha256_of_json(["files", *look, [self._facts(int(row)) for row in indices]])
        sampled = indices[:: -(-len(indices) // _SAMPLED_CONTENTS)]
        names = sha256_of_json([self._contents.name(int(row)) for row in indices])
        outline = [names, sha256_of_bytes(sizes.tobytes())]
        return sha256_of_json(["sampled", *look, outline, [self._facts(int(row)) for row in sampled]])

    def _facts(self, row: int) -> list[Any]:
        name = self._contents.name(row)
        try:
            content = self._contents.read(row)
        except CorruptInput:
            if self._is_tolerant:
                return [name, 0, ""]
            raise
        if not self._is_tolerant:
            check(content, name)
        return [name, len(content), sha256_of_bytes(content)]


def decoded(content: bytes, name: str, look: Look) -> Image.Image:
    """Decode a picture, turn it upright by its EXIF orientation and convert it; transparency is dropped.

    Args:
        content: The encoded picture.
        name: What messages call it.
        look: Colours, and the size it is for; 16-bit grey is scaled to 8 bits, not cut off.

    Raises:
        CorruptInput: It cannot be decoded, or has 32-bit pixels, whose range nobody can know.
    """
    try:
        with Image.open(io.BytesIO(content)) as stored:
            is_sixteen_bit = stored.mode.startswith("I;16") or (stored.mode == "I" and stored.format in ("PNG", "PPM"))
            if stored.mode in ("I", "F") and not is_sixteen_bit:
                raise CorruptInput(name, f"it has 32-bit pixels (mode {stored.mode}), save it with 8 or 16 bits")
            if look.is_fast:
                stored.draft(None, (_DRAFT * look.resolution, _DRAFT * look.resolution))
            stored.load()
            ImageOps.exif_transpose(stored, in_place=True)
    except _UNREADABLE as error:
        raise CorruptInput(name, str(error) or type(error).__name__) from error
    picture = _eight_bit(stored) if is_sixteen_bit else stored
    return picture if picture.mode == look.mode else picture.convert(look.mode)


def check(content: bytes, name: str) -> None:
    """Check that bytes start as a picture and, where the format has them, its checksums; raises `CorruptInput`."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()
    except _UNREADABLE as error:
        raise CorruptInput(name, str(error) or type(error).__name__) from error


def stored_grey(contents: Contents, *, is_tolerant: bool = False) -> tuple[bool, int]:
    """Say whether pictures are stored without colour, from the headers of at most 64 evenly spaced ones.

    Args:
        contents: The pictures.
        is_tolerant: Pass over those that cannot be read.

    Returns:
        Whether all headers read are of a grey mode, and how many were read.

    Raises:
        CorruptInput: One is not a picture.
        DataError: One cannot be reached.
    """
    step = -(-len(contents) // _SAMPLED_HEADERS) or 1
    modes = []
    for row in range(0, len(contents), step):
        try:
            modes.append(_stored_mode(contents.read(row), contents.name(row)))
        except CorruptInput:
            if not is_tolerant:
                raise
    return bool(modes) and all(map(_is_grey_mode, modes)), len(modes)


def _stored_mode(content: bytes, name: str) -> str:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.mode
    except _UNREADABLE as error:
        raise CorruptInput(name, str(error) or type(error).__name__) from error


def _is_grey_mode(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16")


def _eight_bit(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
