"""Devices taken away from an operator whose command is gone for good."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.ship.fleet.deploy import Books, record_of
from edgekd.ship.fleet.inventory import Device
from edgekd.ship.fleet.one_command import ended
from edgekd.ship.fleet.one_device import Work, granted, greeted, patiently, status_of
from edgekd.ship.fleet.result import DeviceResult
from edgekd.ship.fleet.together import each
from edgekd.ship.transport.session import Session


async def free(work: Work, books: Books, devices: Sequence[Device], concurrency: int) -> tuple[DeviceResult, ...]:
    """Free devices, whoever holds them.

    Args:
        work: What all devices share.
        books: Where it is written down.
        devices: The devices.
        concurrency: Devices that are worked on at once.

    Returns:
        One result a device; errors are in them, not raised.

    Raises:
        StorageError: What happened cannot be written down.
    """

    async def one(device: Device) -> DeviceResult:
        result = await ended(work, device, lambda session: _freed(work, session, device))
        books.log.append(record_of(result, "", work.owner, "unlock"))
        return result

    return tuple(await each(devices, one, at_once=concurrency))


async def _freed(work: Work, session: Session, device: Device) -> DeviceResult:
    current = (await greeted(session, device)).current
    holder = (await status_of(session, device)).operator
    granted(await patiently(work, session, "unlock", "--owner", work.owner, "--force"), device.id)
    reason = f"was reserved by {holder}" if holder else "was free"
    return DeviceResult(device.id, device.group, "unlocked", reason, current, current)
