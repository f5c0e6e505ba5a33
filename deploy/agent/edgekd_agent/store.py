"""Content by digest: a blob is in the store only after its bytes were read back from the disk and hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekd_agent import durable
from edgekd_agent.bundle import Artifact
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import Layout
from edgekd_agent.reader import digest_of, open_regular

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Missing:
    """A blob that is not in the store yet.

    Attributes:
        sha256: Its digest.
        size_bytes: Its length.
        blocks: Digest of each complete 8 MiB block that has arrived.
    """

    sha256: str
    size_bytes: int
    blocks: tuple[str, ...]


def is_held(layout: Layout, artifact: Artifact) -> bool:
    """Say whether a blob is in the store, by name and length; `require_intact` reads it."""
    path = layout.blob(artifact.sha256)
    return path.is_file() and not path.is_symlink() and path.stat().st_size == artifact.size_bytes


def missing(layout: Layout, artifacts: Iterable[Artifact]) -> tuple[Missing, ...]:
    """Return the blobs still to be pushed, each once, with what has arrived of them."""
    wanted = {artifact.sha256: artifact for artifact in artifacts if not is_held(layout, artifact)}
    return tuple(
        Missing(sha256, artifact.size_bytes, tuple(_blocks(layout.part(sha256), artifact.size_bytes)))
        for sha256, artifact in sorted(wanted.items())
    )


def admit(layout: Layout, artifact: Artifact) -> None:
    """Take a blob that has arrived into the store: durable first, then read back, then named by its digest.

    Raises:
        AgentError: It has not arrived whole, or its bytes are not those that were signed; such a part is dropped.
    """
    if is_held(layout, artifact):
        durable.remove(layout.part(artifact.sha256))
        return
    part = layout.part(artifact.sha256)
    if not part.is_file() or part.is_symlink():
        raise AgentError("missing", f"{artifact.path} ({artifact.sha256}) has not arrived; push it, then install again")
    size_bytes = part.stat().st_size
    if size_bytes < artifact.size_bytes:
        words = f"{size_bytes} of {artifact.size_bytes} bytes of {artifact.path} have arrived; push it to the end"
        raise AgentError("missing", f"{words}, then install again")
    durable.settle(part)
    if size_bytes > artifact.size_bytes or digest_of(part, artifact.size_bytes) != artifact.sha256:
        durable.remove(part)
        raise AgentError("damaged", f"{artifact.path} is not what was signed; it was dropped, push it again")
    target = layout.blob(artifact.sha256)
    durable.make_folder(target.parent)
    durable.chmod(part, 0o444)
    durable.rename(part, target)
    durable.fsync_folder(target.parent)


def require_intact(layout: Layout, artifact: Artifact) -> Path:
    """Read a blob again and return its path.

    Raises:
        AgentError: It is gone, or its bytes have changed; a changed one is dropped so that it can be pushed again.
    """
    path = layout.blob(artifact.sha256)
    if not is_held(layout, artifact) or digest_of(path, artifact.size_bytes) != artifact.sha256:
        durable.remove(path)
        raise AgentError("damaged", f"{artifact.path} has changed on this disk; it was dropped, push it again")
    return path


def _blocks(part: Path, size_bytes: int) -> Iterator[str]:
    """Yield the digest of each complete block of a part; none when it is longer than the whole should be."""
    if not part.is_file() or part.is_symlink() or part.stat().st_size > size_bytes:
        return
    with open_regular(part) as stream:
        while True:
            block = stream.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                return
            yield hashlib.sha256(block).hexdigest()
