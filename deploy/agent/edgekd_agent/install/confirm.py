"""After the switch: the new generation is confirmed by what serves it, by a last check, or not at all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from edgekd_agent import documents, durable
from edgekd_agent.device import Site
from edgekd_agent.errors import AgentError
from edgekd_agent.install.work import Candidate, Workshop

_LOOK_S = 0.1
CONFIRMED = "confirmed.json"


@dataclass(frozen=True)
class Beat:
    """A sign of life of what serves.

    Attributes:
        generation: The generation it serves.
        sequence: Grows with each beat of one process.
        pid: That process.
        is_ok: Whether its engine answers as it should.
        message: What is wrong; empty when nothing is.
    """

    generation: int
    sequence: int
    pid: int
    is_ok: bool
    message: str


def read_beat(site: Site) -> Beat | None:
    """Return the last sign of life, or None."""
    document = documents.read(site.layout.heartbeat)
    if document is None:
        return None
    try:
        return Beat(
            int(document["generation"]),
            int(document["sequence"]),
            int(document["pid"]),
            document["is_ok"] is True,
            str(document.get("message", "")),
        )
    except (KeyError, TypeError, ValueError):
        return None


def write_beat(site: Site, beat: Beat) -> None:
    """Leave a sign of life; it need not survive a power loss."""
    document: dict[str, Any] = {
        "schema_version": 1,
        "generation": beat.generation,
        "sequence": beat.sequence,
        "pid": beat.pid,
        "is_ok": beat.is_ok,
        "message": beat.message,
    }
    documents.write_lightly(site.layout.heartbeat, document)


def approve(site: Site, generation: int) -> None:
    """Confirm a generation from outside; whoever waits for it sees this."""
    documents.write_lightly(site.layout.root / CONFIRMED, {"schema_version": 1, "generation": generation})


def forget(site: Site) -> None:
    """Drop what was said of an earlier generation."""
    durable.remove(site.layout.root / CONFIRMED)


def wait(site: Site, generation: int, candidate: Candidate, workshop: Workshop) -> None:
    """Return when a generation is confirmed.

    Raises:
        AgentError: It is not: the check fails, what serves reports it as ill, or the time is over.
    """
    if site.settings.confirm_by == "check":
        workshop.check(candidate, is_timed=False)
        return
    deadline = time.monotonic() + 60 * site.settings.confirm_minutes
    good, bad, seen = 0, 0, None
    while not _is_approved(site, generation):
        beat = read_beat(site)
        if beat is not None and (beat.pid, beat.sequence) != seen and beat.generation == generation:
            good, bad = (good + 1, 0) if beat.is_ok else (0, bad + 1)
            if good >= site.settings.confirm_beats:
                return
            if bad >= site.settings.confirm_beats:
                raise AgentError("unconfirmed", f"what serves reports it as ill: {beat.message or 'no reason given'}")
        seen = (beat.pid, beat.sequence) if beat is not None else seen
        if time.monotonic() > deadline:
            words = f"no {site.settings.confirm_beats} healthy heartbeats in {site.settings.confirm_minutes:g} minutes"
            raise AgentError("unconfirmed", f"{words}; last: {beat}")
        time.sleep(_LOOK_S)


def _is_approved(site: Site, generation: int) -> bool:
    document = documents.read(site.layout.root / CONFIRMED)
    return document is not None and document.get("generation") == generation
