"""Reads files from a stranger, bounded and unlinked, and `bundle.json`, strictly, with every problem in one error."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgekd_agent import strict
from edgekd_agent.bundle import MANIFEST_NAME, SCHEMA_VERSION, BundleProblem, Manifest, ManifestError
from edgekd_agent.rules import problems_of

MAX_MANIFEST_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


def read_manifest(path: Path) -> Manifest:
    """Read `bundle.json`.

    Args:
        path: The manifest itself; a link is refused.

    Returns:
        The checked manifest.

    Raises:
        ManifestError: Not there, not a regular file, too long, or not a valid manifest.
    """
    return parse_manifest(read_manifest_bytes(path))


def read_manifest_bytes(path: Path) -> bytes:
    """Read at most `MAX_MANIFEST_BYTES` of a regular file; raises `ManifestError`."""
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise _manifest_error(f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise _manifest_error(f"longer than {MAX_MANIFEST_BYTES} bytes")
    return content


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, never through a link and never waiting for a pipe.

    Raises:
        OSError: It is not there, not allowed, or not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def digest_of(path: Path, most_bytes: int) -> str:
    """Return the SHA-256 of a regular file, reading at most one byte more than it should have: a longer one differs.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        left = most_bytes + 1
        while left > 0 and (block := stream.read(min(_CHUNK_BYTES, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def parse_manifest(content: bytes) -> Manifest:
    """Check the bytes of a `bundle.json`.

    Args:
        content: The whole file.

    Returns:
        The checked manifest.

    Raises:
        ManifestError: Lists every problem; for an unknown `schema_version` only that one.
    """
    try:
        document = strict.parse(content)
    except strict.NotStrictJson as error:
        raise _manifest_error(str(error)) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(document, dict) and (type(version) is not int or version != SCHEMA_VERSION):
        raise _manifest_error(f"schema_version {version!r} is not known; this agent reads {SCHEMA_VERSION}")
    problems: list[str] = []
    manifest = strict.build(Manifest, document, "bundle", problems)
    if manifest is not None:
        problems = problems_of(manifest)
    if manifest is None or problems:
        raise _manifest_error(*problems)
    return manifest


def _manifest_error(*messages: str) -> ManifestError:
    return ManifestError(tuple(BundleProblem(MANIFEST_NAME, "manifest", message) for message in messages))
