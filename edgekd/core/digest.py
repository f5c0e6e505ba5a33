"""Content digests: SHA-256 of files, of plain data in canonical JSON, and of named arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

_CHUNK_BYTES = 1 << 20


class _Array(Protocol):
    @property
    def dtype(self) -> Any: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def tobytes(self) -> bytes: ...


def sha256_of_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(document: Any) -> bytes:
    """Return the one byte form of `document`: sorted keys, no spaces, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("utf-8")


def sha256_of_json(document: Any) -> str:
    """Return the SHA-256 of plain data in canonical JSON."""
    return sha256_of_bytes(canonical_json(document))


def sha256_of_arrays(arrays: Mapping[str, _Array]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and contents of arrays, independent of their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype}|{tuple(array.shape)}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
