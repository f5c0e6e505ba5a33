"""Devices sent back to what they ran before: at once, without waves, since it is what one does in need."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.ship.fleet.deploy import Books, record_of
from edgekd.ship.fleet.inventory import Device
from edgekd.ship.fleet.one_command import ended
from edgekd.ship.fleet.one_device import Work, granted, greeted, patiently, reserved, status_of
from edgekd.ship.fleet.records import now_text
from edgekd.ship.fleet.result import DeviceResult
from edgekd.ship.fleet.together import each
from edgekd.ship.transport.session import Session

_DEPLOYMENT = "rollback"


async def roll_back(work: Work, books: Books, devices: Sequence[Device], concurrency: int) -> tuple[DeviceResult, ...]:
    """Send devices back.

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
        result = await ended(work, device, lambda session: _back(work, session, device))
        _write(books, result, work.owner)
        return result

    return tuple(await each(devices, one, at_once=concurrency))


async def _back(work: Work, session: Session, device: Device) -> DeviceResult:
    before = (await greeted(session, device)).current
    async with reserved(work, session, device.id):
        answer = await patiently(work, session, "rollback", "--reason", f"rolled back by {work.owner}")
        granted(answer, device.id, otherwise="failed")
        after = (await status_of(session, device)).current
    return DeviceResult(device.id, device.group, "rolled-back", "", before, after)


def _write(books: Books, result: DeviceResult, owner: str) -> None:
    digest = result.before.bundle_sha256 if result.before else ""
    books.log.append(record_of(result, digest, owner, _DEPLOYMENT))
    changes: dict[str, object] = {"result": result.outcome, "reason": result.reason, "queued": ""}
    if result.is_done:
        changes |= {"reported": result.after, "last_seen": now_text()}
    books.records.change(result.device_id, **changes)
