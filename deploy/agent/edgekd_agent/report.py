"""What the agent tells of itself: status as plain data, metrics as Prometheus text."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import edgekd_agent
from edgekd_agent import badmarks, generations, journal, locks, releases, space
from edgekd_agent.device import Site
from edgekd_agent.engine import facts
from edgekd_agent.install import history


def status(site: Site) -> dict[str, Any]:
    """Return where the device stands, from the journal and the links themselves."""
    layout = site.layout
    reading = journal.read(layout.journal)
    current, previous = generations.linked(layout.current), generations.linked(layout.previous)
    operator = locks.operator(layout)
    return {
        **history.summary(reading.records),
        "current": current.summary() if current else None,
        "previous": previous.summary() if previous else None,
        "operator": {"owner": operator.owner, "since": operator.since_s} if operator else None,
        "sequence": reading.records[-1].sequence if reading.records else 0,
        "is_busy": locks.is_busy(layout),
        "is_journal_damaged": reading.is_damaged,
    }


def hello(site: Site) -> dict[str, Any]:
    """Return who this device is and what it can do; starts nothing."""
    layout, now = site.layout, status(site)
    device = releases.device(layout)
    return {
        "schema_version": 1,
        "agent": edgekd_agent.__version__,
        "device_id": device.device_id,
        "group": device.group,
        "root_version": releases.root_version(layout),
        "free_bytes": space.free_bytes(site),
        "state": now["state"],
        "current": now["current"],
        "facts": {**facts.remembered(layout), "selector": dict(device.selector)},
        "python": platform.python_version(),
    }


def metrics(site: Site) -> str:
    """Return the device's state as Prometheus text."""
    now = status(site)
    current, last = now["current"] or {}, now["last"] or {}
    labels = {key: str(current.get(key, "")) for key in ("name", "version", "bundle_sha256")}
    rows: list[tuple[str, str, Mapping[str, str], float]] = [
        ("edgekd_release_info", "Release that runs.", labels, 1.0 if current else 0.0),
        ("edgekd_generation", "Number of the generation that runs.", {}, float(current.get("generation", 0))),
        ("edgekd_state_info", "State of the agent.", {"state": now["state"]}, 1.0),
        ("edgekd_last_install_info", "Result of the last install.", {"result": str(last.get("result", ""))}, 1.0),
        ("edgekd_last_install_seconds", "Duration of the last install.", {}, float(last.get("seconds") or 0.0)),
        ("edgekd_bad_bundles", "Bundles that failed here.", {}, float(len(badmarks.read(site.layout)))),
        ("edgekd_free_bytes", "Free disk space.", {}, float(space.free_bytes(site))),
    ]
    return "".join(_metric(*row) for row in rows)


def _metric(name: str, help_text: str, labels: Mapping[str, str], value: float) -> str:
    return f"# HELP {name} {help_text}\n# TYPE {name} gauge\n{sample(name, labels, value)}"


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """Return one line of Prometheus text."""
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    number = f"{value:.10g}"
    return f"{name}{{{inside}}} {number}\n" if inside else f"{name} {number}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
