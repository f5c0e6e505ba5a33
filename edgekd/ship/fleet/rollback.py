"""Devices sent back to what they ran before: at once, without waves, since it is what one does in need."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from edgekd.core.errors import EdgeKDError, ExitCode
from edgekd.core.events import Event
from edgekd.ship.fleet.deploy import Books, record_of
from edgekd.ship.fleet.inventory import Device
from edgekd.ship.fleet.one_device import NotDone, Work, granted, greeted, reached, reserved, status_of
from edgekd.ship.fleet.records import now_text
from edgekd.ship.fleet.result import DeviceResult
from edgekd.ship.fleet.together import all_of
from edgekd.targets.ssh_connection import Unreachable

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
    limit = asyncio.Semaphore(concurrency)

    async def one(device: Device) -> DeviceResult:
        async with limit:
            result = await _one(work, device)
        _write(books, result, work.owner)
        return result

    return tuple(await all_of(one(device) for device in devices))


async def _one(work: Work, device: Device) -> DeviceResult:
    clock = asyncio.get_running_loop().time
    started = clock()
    work.listener(Event("start", device.id, str(device.address)))
    try:
        result = await asyncio.wait_for(_back(work, device), work.timeouts.device_s)
    except asyncio.TimeoutError:
        reason = f"no end after {work.timeouts.device_s:g} s"
        result = DeviceResult(device.id, device.group, "timed-out", reason, exit_code=ExitCode.TARGET)
    except NotDone as error:
        result = DeviceResult(device.id, device.group, error.outcome, str(error), exit_code=error.exit_code)
    except Unreachable as error:
        result = DeviceResult(device.id, device.group, "offline", str(error), exit_code=ExitCode.TARGET)
    except EdgeKDError as error:
        result = DeviceResult(device.id, device.group, "refused", str(error), exit_code=error.exit_code)
    work.listener(Event("end", device.id, f"{result.outcome}{f': {result.reason}' if result.reason else ''}"))
    return dataclasses.replace(result, seconds=clock() - started)


async def _back(work: Work, device: Device) -> DeviceResult:
    async with reached(work, device, lambda message: work.listener(Event("note", device.id, message))) as session:
        before = (await greeted(session, device)).current
        async with reserved(work, session, device.id):
            why = f"rolled back by {work.owner}"
            granted(await session.agent("rollback", "--reason", why), device.id, otherwise="failed")
            after = (await status_of(session, device)).current
    return DeviceResult(device.id, device.group, "rolled-back", "", before, after)


def _write(books: Books, result: DeviceResult, owner: str) -> None:
    digest = result.before.bundle_sha256 if result.before else ""
    books.log.append(record_of(result, digest, owner, _DEPLOYMENT))
    changes: dict[str, object] = {"result": result.outcome, "reason": result.reason, "queued": ""}
    if result.is_done:
        changes |= {"reported": result.after, "last_seen": now_text()}
    books.records.change(result.device_id, **changes)
