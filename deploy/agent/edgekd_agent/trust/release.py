"""The one question a device asks of its metadata: what should I run, and who says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgekd_agent.bundle import Manifest
from edgekd_agent.trust.device import Device


@dataclass(frozen=True)
class Release:
    """What a device should run.

    Attributes:
        group: Group it was signed for.
        name: Name of the model line.
        version: Its release.
        bundle_sha256: Digest of `bundle.json`, which names the release.
        bundle_bytes: Content of `bundle.json`.
        manifest: The same, checked.
        signed_until: When the first of the metadata behind it expires, UTC.
    """

    group: str
    name: str
    version: int
    bundle_sha256: str
    bundle_bytes: bytes
    manifest: Manifest
    signed_until: datetime


def desired_release(trust: Path, metadata: Path, device: Device, *, now: datetime, clock_floor: datetime) -> Release:
    """Verify what was pushed and tell which release this device should run.

    What is trusted afterwards is on disk before this returns. After a refusal it is what it was before, except that
    roots which were signed as they must be are kept: a revoked key stays revoked. One caller at a time: hold the lock
    of the device.

    Args:
        trust: Folder with `root.json` and everything trusted since.
        metadata: Folder with the files that were pushed.
        device: This device.
        now: The device's clock, with time zone.
        clock_floor: A time that has certainly passed, with time zone: when the agent was built.

    Returns:
        The release.

    Raises:
        TrustError: Something is not as it was signed, not signed, or not for this device.
        OSError: The trust folder cannot be read or written.
    """
    from edgekd_agent.trust.updating import verified_release

    return verified_release(trust, metadata, device, now=now, clock_floor=clock_floor)


def trusted_root_version(trust: Path) -> int:
    """Return the version of the newest root the device trusts: what the host must continue from.

    Raises:
        TrustError: The root of trust is `"missing"` or damaged.
    """
    from edgekd_agent.trust.updating import newest_root_version

    return newest_root_version(trust)
