"""Content by digest: a blob is in the store only after its bytes were read back from the disk and hashed."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from edgekd_agent import durable, staging
from edgekd_agent.bundle import Artifact
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import Layout
from edgekd_agent.reader import digest_of

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
    """Take a blob that has arrived into the store: copied, made durable, read back, named by its digest.

    The part stays its pusher's, who may change it at any moment; only the copy is judged.

    Raises:
        AgentError: It has not arrived whole, is no plain file, or its bytes are not those that were signed; what is
            no beginning of it is dropped.
        OSError: The disk refused.
    """
    part = layout.part(artifact.sha256)
    if is_held(layout, artifact):
        staging.drop(part)
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(staging.opened(part))
        except OSError as error:
            raise _not_opened(part, artifact, error) from error
        arrived_bytes = os.fstat(stream.fileno()).st_size
        if arrived_bytes < artifact.size_bytes:
            words = f"{arrived_bytes} of {artifact.size_bytes} bytes of {artifact.path} have arrived"
            raise AgentError("missing", f"{words}; push it to the end, then install again")
        is_signed = arrived_bytes == artifact.size_bytes and _is_taken(layout, artifact, stream.fileno())
    is_gone = staging.drop(part)
    if not is_signed:
        raise _damaged(part, f"{artifact.path} is not what was signed", is_gone=is_gone)


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


def _is_taken(layout: Layout, artifact: Artifact, source: int) -> bool:
    """Copy an open part, judge the copy, and give it its name when it is what was signed; else no copy is left."""
    target = layout.blob(artifact.sha256)
    copy = target.with_name(target.name + durable.NEW)
    durable.make_folder(target.parent)
    durable.remove(copy)
    try:
        durable.write_copy(copy, source, artifact.size_bytes, 0o444)
        is_signed = digest_of(copy, artifact.size_bytes) == artifact.sha256
    except OSError:
        with suppress(OSError):  # a full disk needs the room at once, to note even that it is full
            durable.remove(copy)
        raise
    if is_signed:
        durable.rename(copy, target)
        durable.fsync_folder(target.parent)
    else:
        durable.remove(copy)
    return is_signed


def _not_opened(part: Path, artifact: Artifact, error: OSError) -> AgentError:
    if error.errno == errno.ENOENT:
        words = f"{artifact.path} ({artifact.sha256}) has not arrived"
        return AgentError("missing", f"{words}; push it, then install again")
    if error.errno == errno.EACCES:
        return AgentError("damaged", f"{part} may not be read by the agent; remove it, then push it again")
    found = {errno.ELOOP: "a link", errno.EMLINK: "a hard link"}.get(error.errno or 0, "a folder, pipe or device")
    return _damaged(part, f"{part} is {found}, not a plain file", is_gone=staging.drop(part))


def _damaged(part: Path, words: str, *, is_gone: bool) -> AgentError:
    what = "it was dropped, push it again" if is_gone else f"it cannot be dropped: remove {part} as root"
    return AgentError("damaged", f"{words}; {what}")


def _blocks(part: Path, size_bytes: int) -> Iterator[str]:
    """Yield the digest of each complete block of a part; none when it is longer than the whole should be."""
    with suppress(OSError), staging.opened(part) as stream:
        if os.fstat(stream.fileno()).st_size > size_bytes:
            return
        for _ in range(size_bytes // BLOCK_BYTES):
            block = stream.read(BLOCK_BYTES)
            if len(block) < BLOCK_BYTES:
                return
            yield hashlib.sha256(block).hexdigest()
