"""One device brought to the release of its group: asked, reserved, given what it lacks, told to install, watched.

The device verifies, builds, checks, switches and reverts on its own; what happens here may be cut off anywhere and is
done again by the next command.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from edgekd.core.errors import BundleError, EdgeKDError, ExitCode, TargetError
from edgekd.core.events import Event, Listener, silent
from edgekd.ship.fleet.inventory import Device, Timeouts
from edgekd.ship.fleet.result import DeviceResult, Outcome
from edgekd.ship.fleet.source import Parcel, Source
from edgekd.ship.transport.answers import (
    Hello,
    Model,
    Status,
    exit_code_of_kind,
    hello_from,
    needs_from,
    release_from,
    status_from,
)
from edgekd.ship.transport.session import Answer, Session, Transport
from edgekd.targets.ssh_connection import Unreachable
from edgekd.targets.ssh_line import Pauses

_MIB = 1 << 20
_UNLOCK_S = 20.0
_STARTS = 3


@dataclass(frozen=True)
class Work:
    """What every device of a command shares.

    Attributes:
        transport: The way to devices.
        source: Where releases come from.
        owner: The operator.
        timeouts: How long devices are waited for.
        listener: Told about progress; the stage is the device.
        is_retried: Whether a release that failed on a device before is tried there again.
        chance: Where pauses get their randomness from.
    """

    transport: Transport
    source: Source
    owner: str
    timeouts: Timeouts = field(default_factory=Timeouts)
    listener: Listener = silent
    is_retried: bool = False
    chance: random.Random = field(default_factory=random.Random)


class NotDone(EdgeKDError):
    """A device that is not brought to the release, in a way that has a name.

    Attributes:
        outcome: The name.
    """

    def __init__(self, outcome: Outcome, message: str, code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.outcome: Outcome = outcome
        self.exit_code = ExitCode(code)


@dataclass
class _Course:
    """How far a device got, for whoever has to say what became of it."""

    before: Model | None = None
    after: Model | None = None
    is_installing: bool = False
    is_changed: bool = False


async def bring(work: Work, device: Device, desired: Model) -> DeviceResult:
    """Bring one device to a release.

    Args:
        work: What all devices share.
        device: The device.
        desired: The release of its group.

    Returns:
        How it went; errors are in it, not raised.
    """
    clock = asyncio.get_running_loop().time
    started, course = clock(), _Course()
    note = _noting(work, device)
    work.listener(Event("start", device.id, str(device.address)))
    try:
        await asyncio.wait_for(_bring(work, device, desired, course, note), work.timeouts.device_s)
        outcome: Outcome = "installed" if course.is_changed else "up-to-date"
        reason, code = "", int(ExitCode.DONE)
    except asyncio.TimeoutError:
        outcome, code = "timed-out", int(ExitCode.TARGET)
        reason = f"not done after {work.timeouts.device_s:g} s; an install there goes on"
    except NotDone as error:
        outcome, reason, code = error.outcome, str(error), int(error.exit_code)
    except Unreachable as error:
        outcome, reason, code = ("silent" if course.is_installing else "offline"), str(error), int(ExitCode.TARGET)
    except EdgeKDError as error:
        outcome, reason, code = "refused", str(error), int(error.exit_code)
    work.listener(Event("end", device.id, f"{outcome}{f': {reason}' if reason else ''}"))
    seconds = clock() - started
    return DeviceResult(device.id, device.group, outcome, reason, course.before, course.after, seconds, code)


@asynccontextmanager
async def reached(work: Work, device: Device, note: Callable[[str], None]) -> AsyncIterator[Session]:
    """Open a session, calling a device that does not answer some times more; raises `Unreachable` then."""
    pauses = Pauses(first_wait_s=1.0, longest_wait_s=15.0, jitter=0.5)
    wait_s = pauses.first_wait_s
    for left in range(work.timeouts.reach_tries - 1, -1, -1):
        manager = work.transport.session(device.address, note)
        try:
            session = await manager.__aenter__()
        except Unreachable:
            if not left:
                raise
            note("no answer, trying again")
            await asyncio.sleep(pauses.around(wait_s, work.chance))
            wait_s = min(2 * wait_s, pauses.longest_wait_s)
        else:
            break
    try:
        yield session
    finally:
        await manager.__aexit__(None, None, None)


async def greeted(session: Session, device: Device) -> Hello:
    """Ask a device who it is.

    Raises:
        TargetError: It is another device, or of another group, than `fleet.yaml` says.
    """
    hello = hello_from(granted(await session.agent("hello"), device.id), device.id)
    if (hello.device_id, hello.group) != (device.id, device.group):
        raise TargetError(
            f"{device.address} says it is {hello.device_id!r} of group {hello.group!r}, fleet.yaml says {device.id!r} "
            f"of {device.group!r}: correct the file, or provision the device again"
        )
    return hello


@asynccontextmanager
async def reserved(work: Work, session: Session, host: str) -> AsyncIterator[None]:
    """Hold a device for the length of a block; raises `NotDone` when another operator has it."""
    is_others = False
    try:
        answer = await patiently(work, session, "lock", "--owner", work.owner)
        is_others = _kind(answer) == "locked"
        granted(answer, host, otherwise="locked" if is_others else "refused")
        yield
    finally:  # also when the order was cut off: it may have arrived
        if not is_others:
            await _given_back(work, session, host)


async def status_of(session: Session, device: Device) -> Status:
    """Ask a device what it is doing; raises `TargetError` and `NotDone`."""
    return status_from(granted(await session.agent("status"), device.id), device.id)


def granted(answer: Answer, host: str, *, otherwise: Outcome = "refused") -> dict[str, object]:
    """Return what the agent said; raises `NotDone`, of that outcome, when it said no."""
    if answer.exit_code:
        raise NotDone(otherwise, f"{host}: {_words(answer)}", _code(answer.exit_code))
    return dict(answer.document)


async def _bring(work: Work, device: Device, desired: Model, course: _Course, note: Callable[[str], None]) -> None:
    async with reached(work, device, note) as session:
        hello = await greeted(session, device)
        course.before = course.after = hello.current
        if desired.is_same(hello.current) and hello.state == "idle":
            return
        parcel = work.source.parcel(device.group, root_version=hello.root_version)
        await _at_rest(work, session, device)
        async with reserved(work, session, device.id):
            await _hand_over(work, session, device, desired, parcel)
            course.is_installing = course.is_changed = True
            course.after = await _installed(work, session, device, desired)


async def _at_rest(work: Work, session: Session, device: Device) -> Status:
    """Wait until no process of the agent is at work: one of an earlier command may be."""
    while True:
        status = await status_of(session, device)
        if not status.is_busy:
            return status
        work.listener(Event("progress", device.id, f"{status.state} {status.progress}".strip()))
        await asyncio.sleep(work.timeouts.poll_s)


async def patiently(work: Work, session: Session, *words: str) -> Answer:
    """Run a command of the agent, again while another process of the agent has the device."""
    while True:
        answer = await session.agent(*words)
        if _kind(answer) != "busy":
            return answer
        await asyncio.sleep(work.timeouts.poll_s)


async def _hand_over(work: Work, session: Session, device: Device, desired: Model, parcel: Parcel) -> None:
    """Leave metadata and missing blobs in the device's staging."""
    work.listener(Event("progress", device.id, "metadata"))
    await session.put_metadata(parcel.metadata)
    wanted = granted(await patiently(work, session, "want"), device.id)
    release = release_from(wanted, device.id)
    if not desired.is_same(release):
        raise BundleError(f"{device.id} reads {release} in the metadata, the repository says {desired}")
    await _require_not_bad(work, session, device, wanted.get("bad"), desired)
    for need in needs_from(wanted, device.id):
        blob = parcel.blobs.get(need.sha256)
        if blob is None:
            raise BundleError(f"{device.id} lacks {need.sha256}, which the repository does not have for it")
        await session.push(blob, need, _sending(work.listener, device.id))


async def _require_not_bad(work: Work, session: Session, device: Device, bad: object, desired: Model) -> None:
    if not bad:
        return
    if not work.is_retried:
        code = exit_code_of_kind(str(bad).partition(":")[0])
        raise NotDone("failed", f"{desired} failed on it before ({bad}); --retry-failed tries again", code)
    granted(await patiently(work, session, "forgive", desired.bundle_sha256), device.id)


async def _installed(work: Work, session: Session, device: Device, desired: Model) -> Model:
    """Start the install and watch it to its end; one that was cut off there, by a restart, is started again."""
    for _ in range(_STARTS):
        answer = await patiently(work, session, "install", "--detach")
        if answer.exit_code:
            raise NotDone("failed", f"{device.id}: {_words(answer)}", _code(answer.exit_code))
        status = await _at_rest(work, session, device)
        if desired.is_same(status.current):
            return desired
        last = status.last
        is_cut_off = status.state != "idle" or (last is not None and last.kind == "interrupted")
        if not is_cut_off and last is not None and last.bundle_sha256 == desired.bundle_sha256:
            raise NotDone("failed", f"{last.kind or last.result}: {last.reason}", exit_code_of_kind(last.kind))
    raise NotDone(
        "failed", f"its agent began the install {_STARTS} times and did not end it; see logs/install.log there"
    )


async def _given_back(work: Work, session: Session, host: str) -> None:
    """Release the device even when this task is being cancelled; a device that is gone keeps the lock for its owner."""
    unlocking = asyncio.ensure_future(patiently(work, session, "unlock", "--owner", work.owner))
    try:
        await asyncio.wait_for(asyncio.shield(unlocking), _UNLOCK_S)
    except asyncio.CancelledError:
        work.listener(Event("note", host, f"stopping; giving the device back, for at most {_UNLOCK_S:.0f} s"))
        await asyncio.wait({unlocking}, timeout=_UNLOCK_S)
        raise
    except (EdgeKDError, asyncio.TimeoutError):
        pass  # the owner's next command finds it reserved for them
    finally:
        unlocking.cancel()
        await asyncio.gather(unlocking, return_exceptions=True)


def _kind(answer: Answer) -> str:
    error = answer.document.get("error")
    return str(error.get("kind", "")) if isinstance(error, dict) else ""


def _words(answer: Answer) -> str:
    error = answer.document.get("error")
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return answer.complaint or f"its agent ended with {answer.exit_code}"


def _code(code: int) -> int:
    return code if code in (3, 4, 5, 6) else int(ExitCode.FAILED)


def _sending(listener: Listener, device_id: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        listener(Event("progress", device_id, f"sent {done / _MIB:.1f} of {total / _MIB:.1f} MiB", done, total))

    return tell


def _noting(work: Work, device: Device) -> Callable[[str], None]:
    return lambda message: work.listener(Event("note", device.id, message))
