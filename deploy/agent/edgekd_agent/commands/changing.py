"""Commands that change what runs: install, rollback, confirm, forgive, gc, recover."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace

from edgekd_agent import badmarks, collect, durable, generations, journal, locks, releases, report
from edgekd_agent.commands.answer import Answer
from edgekd_agent.device import Site, require_allowed
from edgekd_agent.engine.shop import Shop
from edgekd_agent.errors import AgentError
from edgekd_agent.install import confirm as confirming
from edgekd_agent.install import history, refresh, steps, undo
from edgekd_agent.install.recover import recover as bring_to_rest
from edgekd_agent.layout import checked_digest

_LOG = "install.log"


def install(site: Site, options: Namespace) -> Answer:
    """Install the release that the pushed metadata name, to the end."""
    site = _with_options(site, options)
    shop = Shop(site)
    with locks.only_process(site.layout):
        _rest(site, shop)
        release = releases.desired(site.layout)
        candidate = steps.candidate_of(site, release.bundle_bytes, release.bundle_sha256, release.manifest, shop)
        outcome = steps.nothing_to_do(site, candidate)
        if outcome is None and options.detach:
            return _detached(site, lambda: steps.install(site, candidate, shop))
        outcome = outcome or steps.install(site, candidate, shop)
    document = {"schema_version": 1, **asdict(outcome), "name": release.name, "version": release.version}
    return Answer(document, f"{release.name} {release.version}: {outcome.result} in {outcome.seconds:g} s")


def rollback(site: Site, options: Namespace) -> Answer:
    """Go back to the previous generation."""
    shop = Shop(site)
    with locks.only_process(site.layout):
        _rest(site, shop)
        previous = generations.linked(site.layout.previous)
        if previous is not None:
            fit = refresh.rebuilt(site, previous, shop)
            if fit.number != previous.number:
                generations.point(site.layout, site.layout.previous, fit.number)
        target = undo.rollback(site, options.reason)
    document = {"schema_version": 1, "result": "rolled_back", "current": target.summary()}
    return Answer(document, f"runs {target.manifest.name} {target.manifest.version} again")


def confirm(site: Site, options: Namespace) -> Answer:
    """Confirm the generation on trial at once."""
    del options
    now = report.status(site)
    if now["state"] != "confirming" or now["current"] is None:
        raise AgentError("precondition", f"nothing is on trial; the state is {now['state']}")
    number = now["current"]["generation"]
    confirming.approve(site, number)
    if not locks.is_busy(site.layout):
        with locks.only_process(site.layout):
            last = journal.read(site.layout.journal).records[-1]
            history.enter(site, "idle", {**last.facts, "result": "installed"})
            collect.collect(site)
    return Answer({"schema_version": 1, "result": "confirmed", "current": now["current"]}, f"confirmed {number}")


def forgive(site: Site, options: Namespace) -> Answer:
    """Forget that a bundle failed here."""
    try:
        digest = checked_digest(options.digest)
    except ValueError as error:
        raise AgentError("usage", str(error)) from error
    with locks.only_process(site.layout):
        is_known = badmarks.forgive(site.layout, digest)
    words = "forgiven; it may be installed again" if is_known else "was not marked as bad"
    return Answer({"schema_version": 1, "bundle_sha256": digest, "was_bad": is_known}, f"{digest}: {words}")


def gc(site: Site, options: Namespace) -> Answer:
    """Remove what nothing needs."""
    del options
    with locks.only_process(site.layout):
        if report.status(site)["state"] != "idle":
            raise AgentError("precondition", "an install was cut off; run: recover")
        collected = collect.collect(site)
    text = f"removed {collected.generations} generations, {collected.builds} engines, {collected.blobs} blobs"
    return Answer({"schema_version": 1, **asdict(collected)}, f"{text}, {collected.freed_bytes} bytes")


def recover(site: Site, options: Namespace) -> Answer:
    """Bring the device to rest after a cut, and build the running engine anew when it no longer fits."""
    site = _with_options(site, options)
    shop = Shop(site)
    with locks.only_process(site.layout):
        done = _rest(site, shop)
        running = generations.linked(site.layout.current)
        candidate = refresh.needed(site, running, shop) if running is not None else None
        if candidate is not None:
            steps.install(site, candidate, shop)
            done = "built the engine anew for this device as it is now"
    document = {"schema_version": 1, "done": done, "status": report.status(site)}
    return Answer(document, done or "nothing to do")


def _rest(site: Site, shop: Shop) -> str | None:
    try:
        done = bring_to_rest(site, shop)
    except OSError as error:
        raise steps.storage_error(error) from error
    if done:
        sys.stderr.write(f"edgekd_agent: {done}\n")
    return done


def _with_options(site: Site, options: Namespace) -> Site:
    minutes = getattr(options, "confirm_minutes", None)
    if minutes is None:
        return site
    require_allowed("confirm_minutes", minutes)
    return replace(site, settings=replace(site.settings, confirm_by="heartbeat", confirm_minutes=minutes))


def _detached(site: Site, work: Callable[[], object]) -> Answer:
    """Go on in a process that outlives this one and its terminal; it keeps the lock that is held now."""
    durable.make_folder_lightly(site.layout.logs)
    sequence = report.status(site)["sequence"]
    pid = os.fork()
    if pid:
        document = {"schema_version": 1, "result": "detached", "pid": pid, "sequence": sequence}
        return Answer(document, f"goes on as process {pid}; see: status")
    code = 1
    try:
        os.setsid()
        _redirect(site)
        work()
        code = 0
    except AgentError as error:
        sys.stderr.write(f"{error.kind}: {error.message}\n")
        code = error.exit_code
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(site: Site) -> None:
    log = durable.open_append(site.layout.logs / _LOG)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
