"""What every device should run, what it says it runs, and when it last said anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.core.errors import EdgeKDError
from edgekd.core.events import Event
from edgekd.ship.fleet.inventory import Device
from edgekd.ship.fleet.one_device import Work, granted, greeted, reached
from edgekd.ship.fleet.records import DeviceRecord, Records, now_text
from edgekd.ship.fleet.together import each
from edgekd.ship.transport.answers import Model, status_from


@dataclass(frozen=True)
class Sight:
    """What a device said just now.

    Attributes:
        current: What it runs.
        state: What its agent is doing.
        agent: Version of its agent.
        operator: Who holds it.
        reason: Why its last install failed; empty when it did not.
        problem: Why it said nothing; empty when it did.
    """

    current: Model | None = None
    state: str = ""
    agent: str = ""
    operator: str = ""
    reason: str = ""
    problem: str = ""


@dataclass(frozen=True)
class DeviceStatus:
    """Desired, reported, last seen.

    Attributes:
        device: The device.
        desired: What its group is to run.
        record: What is known of it.
        sight: What it said just now; None when it was not asked.
    """

    device: Device
    desired: Model | None
    record: DeviceRecord
    sight: Sight | None

    @property
    def is_as_desired(self) -> bool:
        """Whether it runs what it should, as far as known."""
        return self.desired is not None and self.desired.is_same(self.record.reported)


async def look_at(work: Work, device: Device) -> Sight:
    """Ask a device what it runs; a device that does not answer is a problem in the result."""
    try:
        return await asyncio.wait_for(_look(work, device), work.timeouts.silent_s)
    except asyncio.TimeoutError:
        return Sight(problem=f"no answer in {work.timeouts.silent_s:g} s")
    except EdgeKDError as error:
        return Sight(problem=str(error))


async def statuses(
    work: Work, records: Records, devices: Sequence[Device], concurrency: int, *, is_asked: bool = True
) -> tuple[DeviceStatus, ...]:
    """Return where devices stand, in their order.

    Args:
        work: What all devices share.
        records: What is known of them; what they say is added.
        devices: The devices.
        concurrency: Devices that are asked at once.
        is_asked: Whether they are asked; else only what is known is returned.

    Raises:
        StorageError: What they say cannot be written down.
    """
    desired = {group: work.source.desired(group) for group in {device.group for device in devices}}

    async def one(device: Device) -> DeviceStatus:
        sight = None
        if is_asked:
            work.listener(Event("start", device.id, str(device.address)))
            sight = await look_at(work, device)
            work.listener(Event("end", device.id, sight.problem or sight.state))
        record = records.of(device.id) if sight is None else _kept(records, device, sight, desired[device.group])
        return DeviceStatus(device, desired[device.group], record, sight)

    return tuple(await each(devices, one, at_once=concurrency))


async def _look(work: Work, device: Device) -> Sight:
    async with reached(work, device, lambda message: None) as session:
        hello = await greeted(session, device)
        status = status_from(granted(await session.agent("status"), device.id), device.id)
        reason = status.last.reason if status.last is not None and status.last.kind else ""
        return Sight(hello.current, status.state, hello.agent, status.operator, reason)


def _kept(records: Records, device: Device, sight: Sight, desired: Model | None) -> DeviceRecord:
    if sight.problem:
        return records.change(device.id, reason=sight.problem)
    changes: dict[str, object] = {"last_seen": now_text(), "reported": sight.current, "state": sight.state}
    changes |= {"agent": sight.agent, "reason": sight.reason}
    if desired is not None and desired.is_same(sight.current):
        changes |= {"queued": ""}
    return records.change(device.id, **changes)
