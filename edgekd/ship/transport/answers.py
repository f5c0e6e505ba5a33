"""What devices answer, read without trust: wrong types and lengths are the device's fault, unknown keys are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from edgekd_agent.errors import AgentError, Kind

from edgekd.core.errors import TargetError
from edgekd.ship.transport.session import BLOCK_BYTES, Need

K = TypeVar("K")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_NEEDS = 4096
_MAX_SECONDS = 1e9


@dataclass(frozen=True)
class Model:
    """A release as a device names it.

    Attributes:
        name: Model line.
        version: Its release number.
        bundle_sha256: Digest of its `bundle.json`.
    """

    name: str
    version: int
    bundle_sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.bundle_sha256[:12]})"

    def is_same(self, other: Model | None) -> bool:
        """Whether the other is this release: digests decide, names do not."""
        return other is not None and other.bundle_sha256 == self.bundle_sha256


@dataclass(frozen=True)
class Hello:
    """Who a device is.

    Attributes:
        agent: Version of its agent.
        device_id: Its name.
        group: Its group.
        root_version: Version of the root of trust that it has.
        state: What its agent is doing.
        current: What it runs.
        free_bytes: Space on its disk.
    """

    agent: str
    device_id: str
    group: str
    root_version: int
    state: str
    current: Model | None
    free_bytes: int


@dataclass(frozen=True)
class Last:
    """How the last install on a device ended.

    Attributes:
        bundle_sha256: Which it was.
        result: The agent's word for it.
        kind: The agent's word for why it failed; empty when it did not.
        reason: Why, for people.
        seconds: How long it took.
    """

    bundle_sha256: str
    result: str
    kind: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Status:
    """What a device is doing.

    Attributes:
        state: Its agent's state; `"idle"` when it does nothing.
        is_busy: Whether a process of the agent is at work; a state that is not idle without one was cut off.
        current: What it runs.
        last: How its last install ended.
        operator: Who holds it, empty when nobody does.
        progress: The agent's words for how far it is.
    """

    state: str
    is_busy: bool
    current: Model | None
    last: Last | None
    operator: str
    progress: str


def hello_from(document: Mapping[str, Any], host: str) -> Hello:
    """Read the answer to `hello`; raises `TargetError`."""
    return Hello(
        agent=_field(document, "agent", str, host),
        device_id=_field(document, "device_id", str, host),
        group=_field(document, "group", str, host),
        root_version=_field(document, "root_version", int, host),
        state=_field(document, "state", str, host),
        current=_model(document.get("current"), host),
        free_bytes=_field(document, "free_bytes", int, host),
    )


def status_from(document: Mapping[str, Any], host: str) -> Status:
    """Read the answer to `status`; raises `TargetError`."""
    operator, last = document.get("operator"), document.get("last")
    return Status(
        state=_field(document, "state", str, host),
        is_busy=_field(document, "is_busy", bool, host),
        current=_model(document.get("current"), host),
        last=_last(last, host) if isinstance(last, Mapping) else None,
        operator=str(operator.get("owner", "")) if isinstance(operator, Mapping) else "",
        progress=_progress_words(document.get("progress")),
    )


def needs_from(document: Mapping[str, Any], host: str) -> tuple[Need, ...]:
    """Read what is missing from the answer to `want`; raises `TargetError`."""
    entries = _field(document, "missing", list, host)
    if len(entries) > _MAX_NEEDS:
        raise TargetError(f"{host} says that it lacks {len(entries)} blobs")
    return tuple(_need(entry, host) for entry in entries)


def release_from(document: Mapping[str, Any], host: str) -> Model:
    """Read the release from the answer to `want`; raises `TargetError`."""
    release = _model(document.get("release"), host)
    if release is None:
        raise TargetError(f"{host} names no release")
    return release


def exit_code_of_kind(kind: str) -> int:
    """Return the exit code that goes with the agent's word for a failure."""
    return AgentError(cast(Kind, kind), "").exit_code


def _need(entry: Any, host: str) -> Need:
    if not isinstance(entry, Mapping):
        raise TargetError(f"{host}: a missing blob is {repr(entry)[:100]}")
    sha256, size_bytes = _field(entry, "sha256", str, host), _field(entry, "size_bytes", int, host)
    blocks = _field(entry, "blocks", list, host)
    if not _SHA256.fullmatch(sha256) or size_bytes < 0:
        raise TargetError(f"{host}: a missing blob is {sha256[:80]!r} of {size_bytes} bytes")
    return Need(sha256, size_bytes, tuple(map(str, blocks[: size_bytes // BLOCK_BYTES])))


def _model(document: Any, host: str) -> Model | None:
    if document is None:
        return None
    if not isinstance(document, Mapping):
        raise TargetError(f"{host}: a release is {repr(document)[:100]}")
    name, version = _field(document, "name", str, host), _field(document, "version", int, host)
    digest = _field(document, "bundle_sha256", str, host)
    if not _SHA256.fullmatch(digest):
        raise TargetError(f"{host}: the digest of a release is {digest[:80]!r}")
    return Model(name, version, digest)


def _last(document: Mapping[str, Any], host: str) -> Last:
    seconds = document.get("seconds")
    return Last(
        bundle_sha256=str(document.get("bundle_sha256") or ""),
        result=_field(document, "result", str, host),
        kind=str(document.get("kind") or ""),
        reason=str(document.get("reason") or ""),
        seconds=float(seconds) if isinstance(seconds, int | float) and 0 <= seconds <= _MAX_SECONDS else 0.0,
    )


def _progress_words(progress: Any) -> str:
    if not isinstance(progress, Mapping) or "step" not in progress:
        return ""
    return f"(step {progress['step']} of {progress.get('steps')})"[:60]


def _field(document: Mapping[str, Any], key: str, kind: type[K], host: str) -> K:
    value = document.get(key)
    if type(value) is not kind:
        shown = repr(value)[:100]
        raise TargetError(f"{host}: its agent's answer has {key} {shown}; update it: edgekd fleet provision")
    return value
