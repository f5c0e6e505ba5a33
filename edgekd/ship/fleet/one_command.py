"""One command on one device, and whatever comes of it as a result."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from edgekd.core.errors import EdgeKDError, ExitCode
from edgekd.core.events import Event
from edgekd.ship.fleet.inventory import Device
from edgekd.ship.fleet.one_device import NotDone, Work, reached
from edgekd.ship.fleet.result import DeviceResult
from edgekd.ship.transport.session import Session
from edgekd.targets.ssh_connection import Unreachable


async def ended(work: Work, device: Device, action: Callable[[Session], Awaitable[DeviceResult]]) -> DeviceResult:
    """Do something on a device.

    Args:
        work: What all devices share.
        device: The device.
        action: Gets the session.

    Returns:
        Its result, or what went wrong; nothing of that is raised.
    """
    return await result_of(work, device, lambda: _done(work, device, action))


async def result_of(work: Work, device: Device, action: Callable[[], Awaitable[DeviceResult]]) -> DeviceResult:
    """Do something about a device; its result, or what went wrong as one."""
    clock = asyncio.get_running_loop().time
    started = clock()
    work.listener(Event("start", device.id, device.address))
    try:
        result = await asyncio.wait_for(action(), work.timeouts.device_s)
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


async def _done(work: Work, device: Device, action: Callable[[Session], Awaitable[DeviceResult]]) -> DeviceResult:
    async with reached(work, device, lambda message: work.listener(Event("note", device.id, message))) as session:
        return await action(session)
