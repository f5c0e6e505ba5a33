"""A bundle as one file that can be carried by hand: a tar that has exactly one form for one bundle.

The manifest comes first, then its files in order, uncompressed. Every header must be, byte for byte, the one that
follows from the manifest, so there is no room for links, absolute paths, `..`, sparse files, doubled members or
a length that the manifest does not name; nothing is written that was not announced.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgekd_agent.bundle import MANIFEST_NAME, BundleProblem, Manifest, ManifestError
from edgekd_agent.reader import MAX_MANIFEST_BYTES, open_regular, parse_manifest

_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1 << 20
_SIZE_FIELD = slice(124, 136)


def header(path: str, size_bytes: int) -> bytes:
    """Return the header of a member: a plain file of nobody, from 1970.

    Raises:
        ValueError: The path does not fit the format.
    """
    member = tarfile.TarInfo(path)
    member.size = size_bytes
    member.mode = 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


def padding(size_bytes: int) -> bytes:
    """Return what fills the last block of a member."""
    return bytes(-size_bytes % _BLOCK)


def trailer(written_bytes: int) -> bytes:
    """Return the end of an archive after so many bytes."""
    return bytes(2 * _BLOCK + -(written_bytes + 2 * _BLOCK) % tarfile.RECORDSIZE)


def unpack(archive: Path, folder: Path) -> Manifest:
    """Write the files of an archived bundle into a folder.

    Sizes are known before bytes are read. Digests are not compared here: verify the folder.

    Args:
        archive: The tar; a link is refused.
        folder: An empty folder.

    Returns:
        The manifest.

    Raises:
        ManifestError: The archive is not one bundle in its one form; the folder then holds a part of it.
        OSError: It cannot be read, or the folder cannot be written.
    """
    with open_regular(archive) as stream:
        content = _manifest_content(stream)
        manifest = parse_manifest(content)
        (folder / MANIFEST_NAME).write_bytes(content)
        position = _BLOCK + len(content) + len(padding(len(content)))
        for artifact in manifest.artifacts:
            _expect(stream, _header_of(artifact.path, artifact.size_bytes), artifact.path)
            target = folder / artifact.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "xb") as copy:
                for chunk in _chunks(stream, artifact.size_bytes, artifact.path):
                    copy.write(chunk)
            _expect(stream, padding(artifact.size_bytes), artifact.path)
            position += _BLOCK + artifact.size_bytes + len(padding(artifact.size_bytes))
        _expect(stream, trailer(position), "the end")
        if stream.read(1):
            raise _refusal("the end", "bytes follow it")
    return manifest


def _manifest_content(stream: BinaryIO) -> bytes:
    block = stream.read(_BLOCK)
    digits = block[_SIZE_FIELD].rstrip(b"\0")
    if not digits.isdigit() or int(digits, 8) > MAX_MANIFEST_BYTES or block != header(MANIFEST_NAME, int(digits, 8)):
        raise _refusal(MANIFEST_NAME, f"not the first member of a plain tar, or longer than {MAX_MANIFEST_BYTES} bytes")
    content = b"".join(_chunks(stream, int(digits, 8), MANIFEST_NAME))
    _expect(stream, padding(len(content)), MANIFEST_NAME)
    return content


def _header_of(path: str, size_bytes: int) -> bytes:
    try:
        return header(path, size_bytes)
    except ValueError as error:
        raise _refusal(path, f"no name for a tar: {error}") from error


def _expect(stream: BinaryIO, expected: bytes, path: str) -> None:
    if stream.read(len(expected)) != expected:
        raise _refusal(path, "the archive is not exactly what the manifest announces here")


def _chunks(stream: BinaryIO, size_bytes: int, path: str) -> Iterator[bytes]:
    left = size_bytes
    while left:
        chunk = stream.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise _refusal(path, "the archive is cut short")
        left -= len(chunk)
        yield chunk


def _refusal(path: str, message: str) -> ManifestError:
    return ManifestError((BundleProblem(path, "manifest", message),))
