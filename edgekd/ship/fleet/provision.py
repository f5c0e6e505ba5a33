"""Devices made part of a fleet over SSH, or given a newer agent: files are left there, `provision.sh` runs as root."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd.core.errors import ExitCode, TargetError
from edgekd.core.events import Event
from edgekd.ship.fleet.deploy import Books, record_of
from edgekd.ship.fleet.device_files import SCRIPT
from edgekd.ship.fleet.inventory import Device
from edgekd.ship.fleet.one_command import ended, result_of
from edgekd.ship.fleet.one_device import NotDone, Work, greeted
from edgekd.ship.fleet.records import now_text
from edgekd.ship.fleet.result import DeviceResult
from edgekd.ship.fleet.together import each
from edgekd.ship.transport.asking import Said, run_words
from edgekd.ship.transport.push import Course, write_small
from edgekd.ship.transport.session import Session
from edgekd.targets.ssh_connection import Address, SshKeys, parse_address
from edgekd.targets.ssh_line import Dropped, Line, Pauses

_SCRIPT_S = 600.0
_STEP_S = 120.0  # a login's own start-up files run before each command, and may wait for a minute themselves
_CODES = {4: ExitCode.TARGET, 5: ExitCode.PRECONDITION}


@dataclass(frozen=True)
class Login:
    """How a device is reached by somebody who may become root there.

    Attributes:
        user: Login in place of the one in `fleet.yaml`; None for that one.
        keys: Trusted host keys and the login's key.
        pauses: How long a silent device is waited for.
        options: Further words for `provision.sh`.
    """

    user: str | None
    keys: SshKeys
    pauses: Pauses
    options: tuple[str, ...] = ()


async def provision(
    work: Work,
    books: Books,
    devices: Sequence[Device],
    login: Login,
    *,
    files: Callable[[Device], Mapping[str, bytes]],
    concurrency: int,
) -> tuple[DeviceResult, ...]:
    """Provision devices, or update the agent of devices that are.

    Args:
        work: What all devices share.
        books: Where it is written down.
        devices: The devices.
        login: How they are reached.
        files: What is left on each; see `device_files`.
        concurrency: Devices that are worked on at once.

    Returns:
        One result a device; errors are in them, not raised.

    Raises:
        StorageError: What happened cannot be written down.
    """

    async def one(device: Device) -> DeviceResult:
        result = await result_of(work, device, lambda: _prepared(work, device, login, files(device)))
        if result.is_done:
            result = await ended(work, device, lambda session: _greets(session, device, result))
        books.log.append(record_of(result, "", work.owner, "provision"))
        changes: dict[str, object] = {"result": result.outcome, "reason": result.reason}
        changes |= {"last_seen": now_text(), "agent": result.reason} if result.is_done else {}
        books.records.change(device.id, **changes)
        return result

    return tuple(await each(devices, one, at_once=concurrency))


async def _prepared(work: Work, device: Device, login: Login, files: Mapping[str, bytes]) -> DeviceResult:
    address = parse_address(device.address)
    address = Address(address.host, login.user or address.user, address.port)
    line = Line(address, login.keys, login.pauses, lambda message: work.listener(Event("note", device.id, message)))
    await line.open()
    try:
        await line.again_after_drops(lambda connection: _run_script(work, device, connection, login, files))
    finally:
        line.close()
    return DeviceResult(device.id, device.group, "provisioned")


async def _run_script(work: Work, device: Device, connection: Any, login: Login, files: Mapping[str, bytes]) -> None:
    become_root = await _way_to_root(connection, device)
    folder = (await _run(connection, ["mktemp", "-d", "/tmp/edgekd-provision.XXXXXX"])).stdout.strip()  # noqa: S108
    try:
        work.listener(Event("progress", device.id, "sending the agent"))
        await _leave(connection, device, PurePosixPath(folder), files)
        work.listener(Event("progress", device.id, "provisioning"))
        key = ["--authorized-key", f"{folder}/operator.pub"] if "operator.pub" in files else []
        words = [*become_root, "sh", f"{folder}/{SCRIPT}", "--from", folder, *key, *login.options]
        said = await _said(connection, words, within_s=_SCRIPT_S)
        if said.exit_code:
            complaint = "; ".join(said.stderr.strip().splitlines()[-3:]) or f"it ended with {said.exit_code}"
            raise NotDone("failed", f"{device.id}: {complaint}", _CODES.get(said.exit_code, ExitCode.FAILED))
    finally:
        await _run(connection, [*become_root, "rm", "-rf", folder])


async def _way_to_root(connection: Any, device: Device) -> list[str]:
    if (await _run(connection, ["id", "-u"])).stdout.strip() == "0":
        return []
    if (await _said(connection, ["sudo", "-n", "true"])).exit_code:
        raise TargetError(
            f"{device.id}: provisioning needs root: a login with sudo that asks for no password (--login), or run "
            "deploy/device/provision.sh on the device by hand"
        )
    return ["sudo", "-n"]


async def _leave(connection: Any, device: Device, folder: PurePosixPath, files: Mapping[str, bytes]) -> None:
    """Leave files; only their acknowledgements may take long, the rest is bounded."""
    import asyncssh

    course = Course(lambda done: None, connection.abort)
    try:
        async with await asyncio.wait_for(connection.start_sftp_client(), _STEP_S) as sftp:
            for place in sorted({str((folder / name).parent) for name in files} - {str(folder)}):
                await asyncio.wait_for(sftp.makedirs(place, exist_ok=True), _STEP_S)
            with tempfile.TemporaryDirectory(prefix="edgekd-") as here:
                for name, content in files.items():
                    source = Path(here) / "file"
                    source.write_bytes(content)
                    await write_small(sftp, source, folder / name, course)
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
        raise Dropped(str(error)) from error
    except asyncssh.SFTPError as error:
        raise TargetError(f"{device.id} refuses a file in {folder}: {error.reason or type(error).__name__}") from error


async def _said(connection: Any, words: list[str], *, within_s: float = _STEP_S) -> Said:
    """Run a program, for a bounded time: one that hangs there would hang here."""
    try:
        return await asyncio.wait_for(run_words(connection, words), within_s)
    except asyncio.TimeoutError:
        raise TargetError(f"{shlex.join(words[:4])} ... on the device has not ended after {within_s:g} s") from None


async def _run(connection: Any, words: list[str]) -> Said:
    said = await _said(connection, words)
    if said.exit_code:
        raise TargetError(f"{shlex.join(words)} on the device: {said.stderr.strip() or said.exit_code}")
    return said


async def _greets(session: Session, device: Device, result: DeviceResult) -> DeviceResult:
    hello = await greeted(session, device)
    return dataclasses.replace(result, reason=f"agent {hello.agent}", before=hello.current, after=hello.current)
