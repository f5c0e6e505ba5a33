"""The ways back: a candidate discarded before the switch, a generation left after it, a rollback by an operator."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from edgekd_agent import badmarks, durable, generations, journal
from edgekd_agent.device import Site
from edgekd_agent.errors import AgentError
from edgekd_agent.install import history
from edgekd_agent.layout import Layout

_BEFORE_SWITCH = history.STEPS[:4]


def fail(site: Site, failure: AgentError, *, is_bad: bool) -> None:
    """Bring the device back to what ran before the install that the journal ends in.

    A disk that refuses even that is left as it is: the journal says where the next start goes on.
    """
    with contextlib.suppress(OSError):
        records = journal.read(site.layout.journal).records
        if not records or records[-1].state in history.AT_REST:
            return
        last = records[-1]
        if last.state in _BEFORE_SWITCH:
            discard(site, last.facts, failure.kind, failure.message, during=last.state, is_bad=is_bad)
        else:
            revert(site, last.facts, failure.kind, failure.message, is_bad=is_bad)


def discard(site: Site, facts: Mapping[str, Any], kind: str, reason: str, *, during: str, is_bad: bool = False) -> None:
    """Drop a candidate that never ran."""
    if is_bad:
        badmarks.mark(site.layout, facts["bundle_sha256"], kind, reason)
    end = {"result": "failed", "kind": kind, "reason": reason, "during": during, "seconds": _seconds(site)}
    history.enter(site, "rolled_back", {**facts, **end})
    clear_left_overs(site.layout)


def revert(site: Site, facts: Mapping[str, Any], kind: str, reason: str, *, is_bad: bool = True) -> None:
    """Go back from a generation that did not prove itself; nothing of it is needed for that."""
    history.enter(site, "reverting", {**facts, "kind": kind, "reason": reason, "is_bad": is_bad})
    finish_revert(site, facts, kind, reason, is_bad=is_bad)


def finish_revert(site: Site, facts: Mapping[str, Any], kind: str, reason: str, *, is_bad: bool) -> None:
    """Do what a `reverting` record announces; the same again when it was cut off."""
    layout = site.layout
    if is_bad:
        badmarks.mark(layout, facts["bundle_sha256"], kind, reason)
    generations.point(layout, layout.current, facts["from"])
    generations.point(layout, layout.previous, facts["previous"])
    end = {"result": "reverted", "kind": kind, "reason": reason, "seconds": _seconds(site)}
    history.enter(site, "rolled_back", {**facts, **end})
    clear_left_overs(layout)


def rollback(site: Site, reason: str) -> generations.Generation:
    """Go back to the previous generation because an operator says so; needs no network.

    Raises:
        AgentError: There is none to go back to, or it is of the release that runs.
    """
    running = generations.linked(site.layout.current)
    target = generations.linked(site.layout.previous)
    if target is None or (running is not None and running.bundle_sha256 == target.bundle_sha256):
        raise AgentError("precondition", "there is no previous generation to go back to")
    facts = {
        "bundle_sha256": target.bundle_sha256,
        "name": target.manifest.name,
        "version": target.manifest.version,
        "generation": target.number,
        "left_sha256": running.bundle_sha256 if running else None,
        "reason": reason,
    }
    history.enter(site, "rolling_back", facts)
    finish_rollback(site, facts)
    return target


def finish_rollback(site: Site, facts: Mapping[str, Any]) -> None:
    """Do what a `rolling_back` record announces; the same again when it was cut off."""
    layout = site.layout
    if facts["left_sha256"] is not None:
        badmarks.mark(layout, facts["left_sha256"], "operator", str(facts["reason"]))
    generations.point(layout, layout.current, facts["generation"])
    generations.point(layout, layout.previous, None)
    history.enter(site, "idle", {**facts, "result": "rolled_back", "kind": "operator", "seconds": _seconds(site)})


def clear_left_overs(layout: Layout) -> None:
    """Remove what an interrupted step left half-made."""
    durable.remove_tree(layout.work)
    for folder in (layout.generations, layout.builds, layout.root):
        for path in sorted(folder.glob(f"*{durable.NEW}")):
            durable.remove_tree(path)
    for path in sorted(layout.blobs.glob(f"*/*{durable.NEW}")):
        durable.remove(path)


def _seconds(site: Site) -> float:
    began_s = history.began_s(journal.read(site.layout.journal).records)
    return round(max(0.0, time.time() - began_s), 3) if began_s else 0.0
