"""The steps of an install, in order; each is in the journal before it is done."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd_agent import badmarks, collect, generations, journal, space, store
from edgekd_agent.bundle import Manifest
from edgekd_agent.device import Site
from edgekd_agent.errors import AgentError
from edgekd_agent.install import confirm, history, undo
from edgekd_agent.install.work import Candidate, Workshop, wanted_artifacts

MARKED_BAD = ("build", "health", "budget", "memory", "unconfirmed")


@dataclass(frozen=True)
class Outcome:
    """How an install ended well.

    Attributes:
        result: `"installed"`, or `"nothing-to-do"` when that release runs already.
        bundle_sha256: Digest of its `bundle.json`.
        generation: Number of the generation that runs.
        seconds: How long it took.
        measured: What the health check found.
    """

    result: str
    bundle_sha256: str
    generation: int
    seconds: float
    measured: Mapping[str, Any]


def candidate_of(site: Site, content: bytes, bundle_sha256: str, manifest: Manifest, workshop: Workshop) -> Candidate:
    """Return a verified release as a candidate for this device."""
    key = workshop.engine_key(manifest)
    return Candidate(site.layout, content, bundle_sha256, manifest, key, wanted_artifacts(manifest, key))


def nothing_to_do(site: Site, candidate: Candidate) -> Outcome | None:
    """Return how the install ends when that release runs already, on the engine that this device needs.

    Raises:
        AgentError: It failed here before, or does not fit on the disk.
    """
    running = generations.linked(site.layout.current)
    wanted = (candidate.bundle_sha256, candidate.engine_key)
    if running is not None and (running.bundle_sha256, running.engine_key) == wanted:
        return Outcome("nothing-to-do", candidate.bundle_sha256, running.number, 0.0, {})
    if (why := badmarks.reason(site.layout, candidate.bundle_sha256)) is not None:
        words = f"{candidate.manifest.name} {candidate.manifest.version} failed here before ({why})"
        raise AgentError("bad", f"{words}; to try it again: forgive {candidate.bundle_sha256}")
    arriving = store.missing(site.layout, candidate.artifacts)
    space.require(space.measured(site, candidate.manifest, arriving))
    return None


def install(site: Site, candidate: Candidate, workshop: Workshop) -> Outcome:
    """Install a verified release; the caller holds the lock and has recovered the device.

    Args:
        site: The device.
        candidate: The release.
        workshop: Builds and checks.

    Returns:
        How it ended.

    Raises:
        AgentError: It did not; what ran before runs on, and the reason is in the journal.
    """
    if (outcome := nothing_to_do(site, candidate)) is not None:
        return outcome
    began_s = time.monotonic()
    try:
        measured = _all_steps(site, candidate, workshop)
    except (AgentError, OSError) as error:
        failure = error if isinstance(error, AgentError) else storage_error(error)
        undo.fail(site, failure, is_bad=failure.kind in MARKED_BAD)
        raise failure from error
    now = generations.linked(site.layout.current)
    number = now.number if now else 0
    return Outcome("installed", candidate.bundle_sha256, number, round(time.monotonic() - began_s, 3), measured)


def storage_error(error: OSError) -> AgentError:
    """Return a failure of the disk in words: full is a precondition, all else is a failure."""
    where = f" ({error.filename})" if error.filename else ""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return AgentError("space" if is_full else "storage", f"the disk refused: {error.strerror or error}{where}")


def _all_steps(site: Site, candidate: Candidate, workshop: Workshop) -> Mapping[str, Any]:
    layout = site.layout
    running, before = generations.linked(layout.current), generations.linked(layout.previous)
    facts: dict[str, Any] = {
        "bundle_sha256": candidate.bundle_sha256,
        "name": candidate.manifest.name,
        "version": candidate.manifest.version,
        "generation": generations.next_number(layout),
        "from": running.number if running else None,
        "previous": before.number if before else None,
    }
    history.enter(site, "fetching", facts)
    history.enter(site, "verifying", facts)
    for artifact in candidate.artifacts:
        store.admit(layout, artifact)
        store.require_intact(layout, artifact)
    history.enter(site, "building", facts)
    workshop.build(candidate)
    history.enter(site, "checking", facts)
    measured = workshop.check(candidate, is_timed=True)
    generations.make(layout, facts["generation"], candidate.content, candidate.engine_key, candidate.artifacts)
    confirm.forget(site)
    history.enter(site, "switching", facts)
    switch(site, facts)
    history.enter(site, "confirming", {**facts, "attempt": 1})
    finish(site, facts, candidate, workshop)
    return measured


def switch(site: Site, facts: Mapping[str, Any]) -> None:
    """Let `current` lead to the new generation, and `previous` to what ran before.

    An engine built anew for the release that runs is no step: the way back stays that to the release before.
    """
    running = generations.linked(site.layout.current)
    if running is not None and running.bundle_sha256 != facts["bundle_sha256"]:
        generations.point(site.layout, site.layout.previous, facts["from"])
    generations.point(site.layout, site.layout.current, facts["generation"])


def finish(site: Site, facts: Mapping[str, Any], candidate: Candidate, workshop: Workshop) -> None:
    """Wait until the new generation is confirmed, say so, and clear away what is no longer needed.

    Raises:
        AgentError: It was not confirmed.
    """
    confirm.wait(site, facts["generation"], candidate, workshop)
    records = journal.read(site.layout.journal).records
    seconds = round(max(0.0, time.time() - history.began_s(records)), 3)
    history.enter(site, "idle", {**facts, "result": "installed", "seconds": seconds})
    collect.collect(site)
