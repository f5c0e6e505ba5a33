"""Writers of small data sets in their published byte layouts, made without edgekd."""

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def idx_bytes() -> Callable[[np.ndarray], bytes]:
    """Return the IDX encoder: magic, big-endian sizes, bytes."""
    return _idx_bytes


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Return a folder with 40 + 20 random 6x6 pictures of ten classes as four plain IDX files."""
    rng = np.random.default_rng(7)
    for stem, count in (("train", 40), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 6, 6), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(_idx_bytes(pixels))
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(_idx_bytes(labels))
    return tmp_path


@pytest.fixture
def write_picture() -> Callable[..., None]:
    """Return a writer of one picture file with random or given pixels; parents are made."""

    def write(path: Path, *, size: tuple[int, int] = (12, 10), mode: str = "RGB", seed: int = 0) -> None:
        channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, mode).save(path)

    return write


@pytest.fixture
def picture_folder(tmp_path: Path, write_picture: Callable[..., None]) -> Path:
    """Return `<class>/*.png` with 10 cats and 20 dogs, RGB, 12 x 10 pixels."""
    for label, (name, count) in enumerate((("cat", 10), ("dog", 20))):
        for row in range(count):
            write_picture(tmp_path / "pets" / name / f"{row:03d}.png", seed=100 * label + row)
    return tmp_path / "pets"


def _encoded(seed: int, suffix: str = ".png", size: tuple[int, int] = (12, 10)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {".jpg": "jpeg"}.get(suffix, suffix[1:]))
    return stream.getvalue()


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """Return an encoder of one random RGB picture, 12 x 10 pixels."""
    return _encoded


@pytest.fixture
def write_shard() -> Callable[..., None]:
    """Return a writer of one tar: a mapping of member names to bytes, in their order."""

    def write(path: Path, members: dict[str, bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return write


@pytest.fixture
def shards(tmp_path: Path, write_shard: Callable[..., None]) -> Path:
    """Return 4 shards of 10 training pictures and 1 of 12 to test on, classes 0, 1 and 2 in turn."""
    for part, shard, count in (*(("train", number, 10) for number in range(4)), ("test", 0, 12)):
        members: dict[str, bytes] = {}
        for row in range(count):
            number = 100 * shard + row + (5000 if part == "test" else 0)
            members[f"{number:06d}.png"] = _encoded(number)
            members[f"{number:06d}.cls"] = str(number % 3).encode()
        write_shard(tmp_path / "set" / f"{part}-{shard:06d}.tar", members)
    return tmp_path / "set"
