"""Bundles that failed on this device: never tried again by themselves, only after `forgive`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edgekd_agent import documents
from edgekd_agent.layout import Layout

_KEPT = 256


def read(layout: Layout) -> Mapping[str, Any]:
    """Return what is known of failed bundles, by digest of their `bundle.json`."""
    document = documents.read(layout.bad) or {}
    bundles = document.get("bundles")
    return bundles if isinstance(bundles, dict) else {}


def reason(layout: Layout, bundle_sha256: str) -> str | None:
    """Return why a bundle is bad here, or None when it is not."""
    mark = read(layout).get(bundle_sha256)
    return f"{mark.get('kind')}: {mark.get('reason')}" if isinstance(mark, dict) else None


def mark(layout: Layout, bundle_sha256: str, kind: str, why: str) -> None:
    """Remember a failure, durably; the oldest of very many are forgotten."""
    marks = {key: value for key, value in read(layout).items() if key != bundle_sha256}
    marks[bundle_sha256] = {"kind": kind, "reason": why, "time_s": round(time.time(), 3)}
    newest = sorted(marks.items(), key=lambda item: item[1].get("time_s", 0.0))[-_KEPT:]
    documents.write(layout.bad, {"schema_version": 1, "bundles": dict(newest)})


def forgive(layout: Layout, bundle_sha256: str) -> bool:
    """Forget a failure; says whether there was one."""
    marks = dict(read(layout))
    if marks.pop(bundle_sha256, None) is None:
        return False
    documents.write(layout.bad, {"schema_version": 1, "bundles": marks})
    return True
