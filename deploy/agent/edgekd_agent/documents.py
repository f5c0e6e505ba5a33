"""Small JSON files of the agent: read with a bound and without trust, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekd_agent import durable, strict
from edgekd_agent.reader import open_regular

MAX_DOCUMENT_BYTES = 1 << 20


def read(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, or None when there is none: absent, too long, damaged."""
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_DOCUMENT_BYTES + 1)
        document = json.loads(content.decode("utf-8")) if len(content) <= MAX_DOCUMENT_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def write(path: Path, document: Any) -> None:
    """Write a JSON file whole or not at all, durably."""
    durable.replace_file(path, strict.canonical(document) + b"\n")


def write_lightly(path: Path, document: Any) -> None:
    """Write a JSON file that may be lost: whole for readers, not kept through a power loss."""
    durable.replace_lightly(path, strict.canonical(document) + b"\n")
