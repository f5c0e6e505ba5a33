"""What lies in a folder of teacher caches, and removing some of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import StorageError
from edgekd.distill.teacher_cache.key import DOCUMENT


@dataclass(frozen=True)
class Entry:
    """Outputs of one network on views of one training split.

    Attributes:
        folder: Where they lie; its name is their key.
        facts: What they follow from.
        parts: Kept parts of its traces, each with its number of views.
        size_bytes: On disk.
        changed: When a block was last added, in seconds since the epoch.
    """

    folder: Path
    facts: Mapping[str, Any]
    parts: Mapping[str, int]
    size_bytes: int
    changed: float


def bytes_in(folder: Path) -> int:
    """Return the bytes of the files below a folder; 0 where there is none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # another writer's temporary file may be gone
            total += path.stat().st_size if path.is_file() else 0
    return total


def size_in_words(size_bytes: float) -> str:
    """Return a size for people."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def entries(root: Path) -> tuple[Entry, ...]:
    """Return what lies in a folder of caches, the longest unchanged first.

    Raises:
        StorageError: The folder is not there.
    """
    if not root.is_dir():
        raise StorageError(f"{root} is no folder of teacher caches")
    found = [_entry(document.parent) for document in root.glob(f"*/{DOCUMENT}")]
    return tuple(sorted(found, key=lambda one: one.changed))


def find(root: Path, key: str) -> Entry:
    """Return one of the caches in a folder.

    Args:
        root: The folder.
        key: The name of the cache, or how that begins.

    Raises:
        StorageError: None or several begin like that.
    """
    fitting = [entry for entry in entries(root) if entry.folder.name.startswith(key)]
    if len(fitting) != 1 or not key:
        known = ", ".join(entry.folder.name for entry in entries(root)) or "none"
        raise StorageError(f"{len(fitting)} caches in {root} have a key that begins with {key!r}; there are: {known}")
    return fitting[0]


def remove(entry: Entry) -> None:
    """Remove a cache; raises `StorageError` where the file system refuses."""
    try:
        shutil.rmtree(entry.folder)
    except OSError as error:
        raise StorageError(f"{entry.folder} cannot be removed: {error.strerror or error}") from error


def _entry(folder: Path) -> Entry:
    try:
        facts = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    parts = {part.name: len([*part.glob("view-*")]) for part in sorted(folder.iterdir()) if part.is_dir()}
    changed = max((path.stat().st_mtime for path in folder.rglob("*")), default=0.0)
    return Entry(folder, facts if isinstance(facts, dict) else {}, parts, bytes_in(folder), changed)
