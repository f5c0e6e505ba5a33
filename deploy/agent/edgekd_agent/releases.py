"""What this device should run, from signed metadata, as the rest of the agent wants it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import edgekd_agent
from edgekd_agent.errors import AgentError, Kind
from edgekd_agent.layout import Layout

if TYPE_CHECKING:
    from edgekd_agent.trust import Device, Release

_NOT_FOR_US = ("wrong-device", "wrong-group")


def device(layout: Layout) -> Device:
    """Return who this device is; raises `AgentError` when it was not provisioned."""
    from edgekd_agent.trust import TrustError, read_device

    try:
        return read_device(layout.device)
    except TrustError as error:
        raise AgentError("precondition", error.message) from error


def root_version(layout: Layout) -> int:
    """Return the version of the newest root this device trusts; 0 when it has none."""
    from edgekd_agent.trust import TrustError, trusted_root_version

    try:
        return trusted_root_version(layout.trust)
    except TrustError:
        return 0


def desired(layout: Layout) -> Release:
    """Verify the pushed metadata and return the release signed for this device.

    Raises:
        AgentError: `"trust"` with the reason, or `"incompatible"` when it is signed for others.
    """
    from edgekd_agent.trust import TrustError, desired_release

    built = datetime.strptime(edgekd_agent.BUILT, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    now = datetime.now(timezone.utc)
    try:
        release = desired_release(layout.trust, layout.metadata, device(layout), now=now, clock_floor=built)
    except TrustError as error:
        kind: Kind = "incompatible" if error.kind in _NOT_FOR_US else "trust"
        raise AgentError(kind, f"{error.kind}: {error.message}") from error
    _require_agent(release.manifest.min_agent)
    return release


def _require_agent(wanted: str) -> None:
    numbers = [[int(part) for part in text.split(".")] for text in (wanted, edgekd_agent.__version__)]
    if numbers[0] > numbers[1]:
        words = f"it needs agent {wanted}, this is {edgekd_agent.__version__}"
        raise AgentError("precondition", f"{words}; upgrade the agent first")
