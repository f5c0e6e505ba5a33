"""Commands that change nothing: hello, want, status, metrics."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from edgekd_agent import badmarks, generations, locks, releases, report, space, store
from edgekd_agent.commands.answer import Answer
from edgekd_agent.device import Site
from edgekd_agent.engine.shop import Shop
from edgekd_agent.install.steps import candidate_of


def hello(site: Site, options: Namespace) -> Answer:
    """Say who this device is."""
    del options
    document = report.hello(site)
    current = document["current"]
    runs = f"{current['name']} {current['version']}" if current else "nothing"
    device = f"{document['device_id']} ({document['group']})"
    return Answer(document, f"{device}: agent {document['agent']}, {document['state']}, runs {runs}")


def want(site: Site, options: Namespace) -> Answer:
    """Verify pushed metadata, and say which blobs must be pushed for the release they name."""
    del options
    with locks.only_process(site.layout):
        release = releases.desired(site.layout)
    candidate = candidate_of(site, release.bundle_bytes, release.bundle_sha256, release.manifest, Shop(site))
    current = generations.linked(site.layout.current)
    missing = store.missing(site.layout, candidate.artifacts)
    room = space.measured(site, release.manifest, missing)
    is_current = current is not None and (current.bundle_sha256, current.engine_key) == (
        release.bundle_sha256,
        candidate.engine_key,
    )
    document: dict[str, Any] = {
        "schema_version": 1,
        "release": {
            "group": release.group,
            "name": release.name,
            "version": release.version,
            "bundle_sha256": release.bundle_sha256,
            "signed_until": release.signed_until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "is_current": is_current,
        "bad": badmarks.reason(site.layout, release.bundle_sha256),
        "missing": [
            {"sha256": blob.sha256, "size_bytes": blob.size_bytes, "blocks": list(blob.blocks)} for blob in missing
        ],
        "space": {"needed_bytes": room.needed_bytes, "free_bytes": room.free_bytes},
    }
    if not is_current:
        space.require(room)
    size = sum(blob.size_bytes for blob in missing)
    state = "runs already" if is_current else f"{len(missing)} blobs of {size} bytes to push"
    return Answer(document, f"{release.name} {release.version}: {state}")


def status(site: Site, options: Namespace) -> Answer:
    """Say where the device stands."""
    del options
    document = report.status(site)
    current, last = document["current"], document["last"]
    lines = [f"state: {document['state']}"]
    lines.append(f"current: {current['name']} {current['version']}" if current else "current: none")
    if last:
        reason = f": {last['reason']}" if last["reason"] else ""
        lines.append(f"last: {last['result']}{reason}")
    if document["operator"]:
        lines.append(f"reserved by: {document['operator']['owner']}")
    return Answer(document, "\n".join(lines))


def metrics(site: Site, options: Namespace) -> Answer:
    """Print Prometheus text."""
    del options
    text = report.metrics(site)
    return Answer({"schema_version": 1, "text": text}, text.rstrip("\n"))
