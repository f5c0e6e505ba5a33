"""The journal's story of installs: where the agent stands, and what came of the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd_agent import documents, journal
from edgekd_agent.device import Site
from edgekd_agent.journal import Record

STEPS = ("fetching", "verifying", "building", "checking", "switching", "confirming")
AT_REST = ("idle", "rolled_back")
_INTERRUPTIONS = 3


def enter(site: Site, state: str, facts: Mapping[str, Any]) -> Record:
    """Enter a state: durable in the journal first, then shown in `status.json`."""
    record = journal.append(site.layout, state, facts)
    documents.write_lightly(site.layout.status, summary(journal.read(site.layout.journal).records))
    return record


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Return what `status.json` says for a journal."""
    last = records[-1] if records else None
    is_at_rest = last is None or last.state in AT_REST
    document: dict[str, Any] = {
        "schema_version": 1,
        "state": "idle" if last is None or is_at_rest else last.state,
        "candidate": None if last is None or is_at_rest else dict(last.facts),
        "last": last_result(records),
        "progress": {},
    }
    if last is not None and last.state in STEPS:
        document["progress"] = {
            "step": STEPS.index(last.state) + 1,
            "steps": len(STEPS),
            "since_s": last.time_s,
        }
    return document


def last_result(records: Sequence[Record]) -> dict[str, Any] | None:
    """Return what came of the last install, rollback or recovery."""
    for record in reversed(records):
        if record.state in AT_REST and "result" in record.facts:
            keys = ("bundle_sha256", "result", "kind", "reason", "seconds")
            return {key: record.facts.get(key) for key in keys}
    return None


def began_s(records: Sequence[Record]) -> float:
    """Return when the install began that the journal ends in."""
    began = records[-1].time_s if records else 0.0
    for record in reversed(records):
        if record.state in AT_REST:
            break
        began = record.time_s
    return began


def is_interrupted_again(records: Sequence[Record], bundle_sha256: str) -> bool:
    """Say whether building or checking a bundle took the device down time after time: it is the bundle then."""
    ends = [record for record in records if record.state in AT_REST and record.facts.get("result") is not None]
    row = 0
    for record in reversed(ends):
        is_same = record.facts.get("bundle_sha256") == bundle_sha256
        if not is_same or record.facts.get("kind") != "interrupted" or record.facts.get("during") not in STEPS[2:4]:
            break
        row += 1
    return row >= _INTERRUPTIONS - 1
