"""What time it is on a device that may have no battery behind its clock.

Time only serves to notice expired metadata, so it must never run backwards: the device takes the latest of its own
clock, the moment its agent was built and the latest time that was signed for it. The last one is kept together with
the keys that signed it. When the operators replace those keys, it is forgotten: a host whose clock was wrong can so be
recovered from, just as TUF recovers from a fast-forward attack. The device's own clock is never kept.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from edgekd_agent import strict
from edgekd_agent.trust.errors import TrustError
from edgekd_agent.trust.keeping import keep, read_if_there

CLOCK_NAME = "clock.json"
_FORM = "%Y-%m-%dT%H:%M:%SZ"
_UNLIKELY = timedelta(days=5 * 365)


@dataclass(frozen=True)
class SeenTime:
    """The latest signed time a device has seen.

    Attributes:
        signed_at: That time, UTC.
        keyids: Keys that were trusted to sign it.
    """

    signed_at: datetime
    keyids: tuple[str, ...]


@dataclass(frozen=True)
class _ClockFile:
    schema_version: Literal[1]
    signed_at: str
    keyids: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """The time a device goes by.

    Attributes:
        now: Latest of the three below.
        own: The device's clock.
        floor: Latest of build time and seen signed time.
    """

    own: datetime
    floor: datetime

    @property
    def now(self) -> datetime:
        """The time to judge expiry by."""
        return max(self.own, self.floor)

    @property
    def is_unlikely(self) -> bool:
        """Whether the device's clock is years ahead of everything it was ever told."""
        return self.own - self.floor > _UNLIKELY


def read_seen(trust: Path) -> SeenTime | None:
    """Return the latest signed time that was kept; None when there is none that can be read."""
    content = read_if_there(trust / CLOCK_NAME)
    if content is None:
        return None
    try:
        found = strict.build(_ClockFile, strict.parse(content), "clock", [])
        return None if found is None else SeenTime(utc_from(found.signed_at), found.keyids)
    except (strict.NotStrictJson, TrustError):
        return None


def keep_seen(trust: Path, seen: SeenTime) -> None:
    """Keep a signed time durably."""
    document = {"schema_version": 1, "signed_at": seen.signed_at.strftime(_FORM), "keyids": sorted(seen.keyids)}
    keep(trust / CLOCK_NAME, strict.canonical(document))


def reading(own: datetime, build_time: datetime, seen: SeenTime | None, trusted_keyids: Collection[str]) -> Reading:
    """Read the time.

    Args:
        own: The device's clock.
        build_time: A time that has certainly passed.
        seen: The kept signed time.
        trusted_keyids: Keys that may sign a time today; a time signed by others does not count.

    Returns:
        The reading.
    """
    counts = seen is not None and set(seen.keyids) <= set(trusted_keyids)
    return Reading(own, max(build_time, seen.signed_at) if counts and seen is not None else build_time)


def utc_from(text: object) -> datetime:
    """Read a time of the form `2026-01-31T12:00:00Z`; raises `TrustError` of kind `"clock"`."""
    try:
        return datetime.strptime(text, _FORM).replace(tzinfo=timezone.utc)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise TrustError("clock", f"{text!r} is not a time of the form 2026-01-31T12:00:00Z") from error
