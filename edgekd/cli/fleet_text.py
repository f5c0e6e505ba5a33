"""What became of a fleet, as JSON and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.ship.fleet import Deployment, DeviceResult, DeviceStatus, Wave
    from edgekd.ship.transport.answers import Model


def model_document(model: Model | None) -> dict[str, Any] | None:
    """Return a release as plain data."""
    if model is None:
        return None
    return {"name": model.name, "version": model.version, "bundle_sha256": model.bundle_sha256}


def result_document(result: DeviceResult) -> dict[str, Any]:
    """Return how it went on a device as plain data."""
    return {
        "device_id": result.device_id,
        "group": result.group,
        "wave": result.wave,
        "outcome": result.outcome,
        "reason": result.reason,
        "from": model_document(result.before),
        "to": model_document(result.after),
        "seconds": round(result.seconds, 3),
        "exit_code": int(result.exit_code),
    }


def results_text(results: Sequence[DeviceResult]) -> str:
    """Return how it went on devices, a line each; equal reasons of devices that were not begun are said once."""
    shown = [result for result in results if result.outcome not in ("up-to-date", "not-started")]
    rows = [
        (
            result.device_id,
            result.wave or "-",
            result.outcome,
            _short(result.before),
            _short(result.after),
            f"{result.seconds:.1f}",
            result.reason,
        )
        for result in shown
    ]
    counts = Counter(result.outcome for result in results)
    summary = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no device"
    header = ("device", "wave", "outcome", "from", "to", "seconds", "reason")
    return (format_table(header, rows) + "\n" if rows else "") + summary


def deployment_document(deployment: Deployment) -> dict[str, Any]:
    """Return how a roll-out went as plain data."""
    return {
        "group": deployment.group,
        "deployment": deployment.deployment,
        "desired": model_document(deployment.desired),
        "halted": deployment.halted or None,
        "devices": [result_document(result) for result in deployment.results],
    }


def deployment_text(deployment: Deployment) -> str:
    """Return how a roll-out went in words."""
    lines = [f"{deployment.group}: {deployment.desired}", results_text(deployment.results)]
    if deployment.halted:
        lines.append(f"halted: {deployment.halted}")
    if any(result.outcome == "offline" for result in deployment.results):
        lines.append("devices that were offline are queued: edgekd fleet status --converge, or the same command again")
    return "\n".join(lines)


def waves_document(group: str, desired: Model, waves: Sequence[Wave]) -> dict[str, Any]:
    """Return planned waves as plain data."""
    listed = [
        {"name": wave.name, "devices": [device.id for device in wave.devices], "note": wave.note} for wave in waves
    ]
    return {"group": group, "desired": model_document(desired), "waves": listed}


def waves_text(group: str, desired: Model, waves: Sequence[Wave]) -> str:
    """Return planned waves in words."""
    rows = [
        (wave.name, str(len(wave.devices)), _listed([device.id for device in wave.devices]), wave.note)
        for wave in waves
    ]
    return f"{group}: would deploy {desired}\n" + format_table(("wave", "devices", "which", "note"), rows)


def status_document(status: DeviceStatus) -> dict[str, Any]:
    """Return where a device stands as plain data."""
    record, sight = status.record, status.sight
    return {
        "device_id": status.device.id,
        "group": status.device.group,
        "address": status.device.address,
        "desired": model_document(status.desired),
        "reported": model_document(record.reported),
        "is_as_desired": status.is_as_desired,
        "last_seen": record.last_seen or None,
        "state": record.state or None,
        "agent": record.agent or None,
        "operator": (sight.operator if sight else "") or None,
        "queued": record.queued or None,
        "problem": (sight.problem if sight else "") or None,
        "reason": record.reason or None,
    }


def statuses_text(statuses: Sequence[DeviceStatus]) -> str:
    """Return where devices stand, a line each."""
    rows = []
    for status in statuses:
        record, sight = status.record, status.sight
        remarks = [sight.problem if sight and sight.problem else record.reason]
        remarks += [f"reserved by {sight.operator}"] if sight and sight.operator else []
        remarks += ["queued"] if record.queued else []
        rows.append(
            (
                status.device.id,
                status.device.group,
                _short(status.desired),
                _short(record.reported),
                "yes" if status.is_as_desired else "no",
                record.last_seen or "never",
                record.state or "-",
                "; ".join(filter(None, remarks)),
            )
        )
    header = ("device", "group", "desired", "reported", "as desired", "last seen", "state", "remark")
    done = sum(status.is_as_desired for status in statuses)
    return f"{format_table(header, rows)}\n{done} of {len(statuses)} devices run what they should"


def _short(model: Model | None) -> str:
    return "-" if model is None else f"{model.name} {model.version}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
