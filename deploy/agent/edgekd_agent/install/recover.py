"""What a start does with an install that was cut off, by where the journal ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd_agent import badmarks, documents, durable, generations, journal
from edgekd_agent.device import Site
from edgekd_agent.errors import AgentError
from edgekd_agent.generations import MANIFEST, Generation
from edgekd_agent.install import history, steps, undo
from edgekd_agent.install.work import Candidate, Workshop, wanted_artifacts
from edgekd_agent.reader import read_manifest_bytes

_CONFIRM_ATTEMPTS = 2


def recover(site: Site, workshop: Workshop) -> str | None:
    """Bring a device to rest; the caller holds the lock.

    Args:
        site: The device.
        workshop: Checks a generation again that was not confirmed yet.

    Returns:
        What was done, in words; None when the device was at rest.

    Raises:
        OSError: The disk refused.
    """
    reading = journal.read(site.layout.journal)
    done = _from_damage(site) if reading.is_damaged else _from_record(site, reading, workshop)
    if done is None:
        done = _repaired_link(site)
    if done is not None:
        undo.clear_left_overs(site.layout)
    return done


def candidate_from(site: Site, generation: Generation) -> Candidate:
    """Return an installed generation as a candidate, to be checked or built again."""
    content = read_manifest_bytes(site.layout.generation(generation.number) / MANIFEST)
    artifacts = wanted_artifacts(generation.manifest, generation.engine_key)
    return Candidate(
        site.layout, content, generation.bundle_sha256, generation.manifest, generation.engine_key, artifacts
    )


def _from_damage(site: Site) -> str:
    reason = "the journal was damaged and has been set aside"
    history.enter(site, "idle", {"result": "recovered", "kind": "journal", "reason": reason})
    return reason


def _from_record(site: Site, reading: journal.Reading, workshop: Workshop) -> str | None:
    if not reading.records or reading.records[-1].state in history.AT_REST:
        return None
    last = reading.records[-1]
    for folder in (site.layout.root, site.layout.generations):
        if folder.is_dir():
            durable.fsync_folder(folder)
    facts = last.facts
    if last.state == "reverting":
        undo.finish_revert(site, facts, facts["kind"], facts["reason"], is_bad=facts["is_bad"])
        return f"finished leaving generation {facts['generation']}"
    if last.state == "rolling_back":
        undo.finish_rollback(site, facts)
        return f"finished the rollback to generation {facts['generation']}"
    if last.state == "switching":
        return _from_switching(site, facts, workshop)
    if last.state == "confirming":
        return _from_confirming(site, facts, workshop)
    is_bad = history.is_interrupted_again(reading.records, facts["bundle_sha256"]) and last.state in history.STEPS[2:4]
    reason = f"cut off while {last.state}" + (" again and again" if is_bad else "")
    undo.discard(site, facts, "interrupted", reason, during=last.state, is_bad=is_bad)
    return f"discarded a candidate: {reason}"


def _from_switching(site: Site, facts: Mapping[str, Any], workshop: Workshop) -> str:
    running = generations.linked(site.layout.current)
    if running is not None and running.number == facts["generation"]:
        history.enter(site, "confirming", {**facts, "attempt": 1})
        return _from_confirming(site, {**facts, "attempt": 1}, workshop)
    generations.point(site.layout, site.layout.previous, facts["previous"])
    undo.discard(site, facts, "interrupted", "cut off before the switch", during="switching")
    return "discarded a candidate: cut off before the switch"


def _from_confirming(site: Site, facts: Mapping[str, Any], workshop: Workshop) -> str:
    """Check it once more in full; a second cut while it was not confirmed means that it goes."""
    running = generations.linked(site.layout.current)
    try:
        if running is None or running.number != facts["generation"]:
            raise AgentError("unconfirmed", "the generation on trial is not whole any more")
        if int(facts.get("attempt", 1)) >= _CONFIRM_ATTEMPTS:
            raise AgentError("unconfirmed", "cut off twice before it was confirmed")
        again = {**facts, "attempt": int(facts.get("attempt", 1)) + 1}
        history.enter(site, "confirming", again)
        candidate = candidate_from(site, running)
        workshop.check(candidate, is_timed=True)
        steps.finish(site, facts, candidate, workshop)
    except AgentError as error:
        undo.revert(site, facts, error.kind, error.message, is_bad=error.kind in steps.MARKED_BAD)
        return f"left generation {facts['generation']}: {error.message}"
    return f"confirmed generation {facts['generation']} after a restart"


def _repaired_link(site: Site) -> str | None:
    """Go to the previous generation when the current one is not whole: a disk may lose what it once had."""
    layout = site.layout
    if not layout.current.is_symlink() or generations.linked(layout.current) is not None:
        return None
    previous = generations.linked(layout.previous)
    if previous is None:
        return None
    reason = "the current generation is not whole any more; went back to the previous one"
    broken = documents.read(layout.current / generations.ABOUT) or {}
    if isinstance(broken.get("bundle_sha256"), str):
        badmarks.mark(layout, broken["bundle_sha256"], "damaged", reason)
    generations.point(layout, layout.current, previous.number)
    end = {"result": "recovered", "kind": "damaged", "reason": reason, "bundle_sha256": previous.bundle_sha256}
    history.enter(site, "idle", end)
    return reason
