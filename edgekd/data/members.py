"""Reading the files of a data set from a folder, a zip or a tar alike: in memory, bounded, never extracted to disk.

A member whose name leaves the archive, that is a link, that appears twice or that is larger than any data set's file
is refused, so that an archive from a stranger can neither write a file nor fill the memory.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from edgekd.core.errors import DataError

MAX_MEMBER_BYTES = 1 << 29
MAX_TOTAL_BYTES = 1 << 31

_UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, RuntimeError)


@dataclass(frozen=True)
class ReadLimits:
    """Bounds on what is read into memory.

    Attributes:
        member_bytes: Largest member.
        total_bytes: All wanted members together.
    """

    member_bytes: int = MAX_MEMBER_BYTES
    total_bytes: int = MAX_TOTAL_BYTES


@dataclass
class _Kept:
    """Members read so far, by the tail of their name that a pattern matched."""

    location: Path
    patterns: Sequence[str]
    limits: ReadLimits
    content: dict[str, bytes] = field(default_factory=dict)
    total_bytes: int = 0

    def key_of(self, name: str) -> str | None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise DataError(f"{self.location}: member {name!r} points outside the archive; do not use this archive")
        for pattern in self.patterns:
            if path.match(pattern):
                return "/".join(path.parts[-len(PurePosixPath(pattern).parts) :])
        return None

    def keep(self, key: str, name: str, stated_bytes: int, stream: IO[bytes]) -> None:
        if key in self.content:
            raise DataError(f"{self.location}: {key} is there more than once (again as {name!r})")
        most = min(self.limits.member_bytes, self.limits.total_bytes - self.total_bytes)
        if stated_bytes > most:
            raise DataError(f"{self.location}: member {name!r} is {stated_bytes:,} bytes, at most {most:,} are read")
        content = stream.read(most + 1)
        if len(content) != stated_bytes:
            raise DataError(
                f"{self.location}: member {name!r} gives {len(content):,} bytes where {stated_bytes:,} are stated"
            )
        self.content[key] = content
        self.total_bytes += len(content)


def read_members(location: Path, patterns: Sequence[str], limits: ReadLimits | None = None) -> dict[str, bytes]:
    """Read every file whose name ends like one of the patterns.

    Args:
        location: A folder (it and its direct subfolders are searched), a zip or a tar archive.
        patterns: Glob patterns matched from the right (`"train/*.webp"`).
        limits: Bounds on what is read; the defaults suit every known archive.

    Returns:
        Content by the tail of the name that matched, so that wrapping folders do not matter; sorted by it.

    Raises:
        DataError: The archive is damaged, unsafe or too large, or `location` is no archive.
    """
    kept = _Kept(location, patterns, limits or ReadLimits())
    with _named_errors(location):
        if location.is_dir():
            _read_folder(location, kept)
        elif zipfile.is_zipfile(location):
            _read_zip(location, kept)
        elif tarfile.is_tarfile(location):
            _read_tar(location, kept)
        else:
            raise DataError(f"{location}: neither a folder nor a complete zip or tar archive")
    return dict(sorted(kept.content.items()))


def member_names(location: Path) -> tuple[str, ...]:
    """Return the names in a folder (two levels), a zip or a tar archive.

    Raises:
        DataError: The archive is damaged, or `location` is no archive.
    """
    with _named_errors(location):
        if location.is_dir():
            paths = [*location.glob("*"), *location.glob("*/*")]
            return tuple(sorted(path.relative_to(location).as_posix() for path in paths))
        if zipfile.is_zipfile(location):
            with zipfile.ZipFile(location) as archive:
                return tuple(archive.namelist())
        with tarfile.open(location) as tar:
            return tuple(tar.getnames())


@contextmanager
def _named_errors(location: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise DataError(f"{location}: cannot be read, it may be damaged or cut short: {error}") from error


def _read_folder(folder: Path, kept: _Kept) -> None:
    for pattern in kept.patterns:
        for path in sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")]):
            name = path.relative_to(folder).as_posix()
            key = kept.key_of(name)
            if key is not None and path.is_file():
                with open(path, "rb") as stream:
                    kept.keep(key, name, path.stat().st_size, stream)


def _read_zip(location: Path, kept: _Kept) -> None:
    with zipfile.ZipFile(location) as archive:
        for info in archive.infolist():
            key = kept.key_of(info.filename)
            if key is not None and not info.is_dir():
                with archive.open(info) as stream:
                    kept.keep(key, info.filename, info.file_size, stream)


def _read_tar(location: Path, kept: _Kept) -> None:
    with tarfile.open(location) as archive:
        for info in archive:
            key = kept.key_of(info.name)
            if key is None or info.isdir():
                continue
            stream = archive.extractfile(info) if info.isreg() else None
            if stream is None:
                raise DataError(f"{location}: member {info.name!r} is a link or a device, not a file")
            kept.keep(key, info.name, info.size, stream)
