"""Pictures by row, wherever they lie: in memory, or resized on demand.

Training code sees `Inputs` only. Loaders hand over `InputStore`s, which also know how to fingerprint their rows, so
that a data set's digest costs one pass over the bytes and never a decode of a whole image folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import DataError
from edgekd.data.inputs import InputStore, Rows

Pixels = NDArray[np.uint8]

_CHUNK_VALUES = 1 << 22


class ArrayImages:
    """Pictures held in memory.

    Args:
        pixels: uint8 `[N, H, W, C]`.

    Raises:
        DataError: `pixels` has another type or number of axes.
    """

    def __init__(self, pixels: Pixels) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise DataError(f"pictures must be uint8 [N, H, W, C], got {pixels.dtype} {list(pixels.shape)}")
        self._pixels = pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every picture."""
        _, height, width, channels = self._pixels.shape
        return (channels, height, width)

    def __len__(self) -> int:
        return len(self._pixels)

    def gather(self, indices: Rows) -> Pixels:
        """Return the pictures of these rows, uint8 `[n, H, W, C]`."""
        return self._pixels[indices]

    def fingerprint(self, indices: Rows) -> str:
        """Return a SHA-256 over shape and pixels of these rows."""
        digest = hashlib.sha256(f"{self.shape}".encode())
        for chunk in chunks(indices, self.shape):
            digest.update(self.gather(chunk).tobytes())
        return digest.hexdigest()


class ResizedImages:
    """Another store's pictures at a square resolution, resized when gathered.

    Args:
        store: Where the pictures lie.
        resolution: Height and width to return, in pixels.
    """

    def __init__(self, store: InputStore, resolution: int) -> None:
        self._store = store
        self._resolution = resolution

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of every picture."""
        return (self._store.shape[0], self._resolution, self._resolution)

    def __len__(self) -> int:
        return len(self._store)

    def gather(self, indices: Rows) -> Pixels:
        """Return the pictures of these rows, uint8 `[n, H, W, C]`."""
        channels, height, width = self.shape
        resized = np.empty((len(indices), height, width, channels), np.uint8)
        for row, pixels in enumerate(self._store.gather(indices)):
            picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
            resized[row] = np.asarray(fitted(picture, self._resolution)).reshape(height, width, channels)
        return resized

    def fingerprint(self, indices: Rows) -> str:
        """Return a SHA-256 over the stored rows and the resolution."""
        return sha256_of_json(["resized", self._resolution, self._store.fingerprint(indices)])


def fitted(picture: Image.Image, resolution: int) -> Image.Image:
    """Return `picture` resized (bilinear, antialiased) so that its shorter side is `resolution`, centre-cropped square.

    Args:
        picture: Any size, mode `L` or `RGB`.
        resolution: Side of the result in pixels.

    Returns:
        A picture of `resolution` x `resolution` pixels and the same mode.
    """
    width, height = picture.size
    scale = resolution / min(width, height)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return picture.crop((left, top, left + resolution, top + resolution))


def chunks(indices: Rows, shape: tuple[int, ...]) -> Iterator[Rows]:
    """Divide rows into runs whose inputs hold a few megabytes.

    Args:
        indices: int64 `[N]`.
        shape: Shape of one input.

    Yields:
        Consecutive parts of `indices`, none empty.
    """
    size = max(1, _CHUNK_VALUES // max(1, int(np.prod(shape))))
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
