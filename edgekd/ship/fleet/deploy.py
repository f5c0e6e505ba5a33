"""A release rolled out over a group in waves, stopped when too many devices fail, and gone on with by the same command.

There is no state to resume from but the devices' own: whoever runs the release already counts as done. Devices that did
not answer are queued, and brought to the release by the next `deploy`, or by `converge`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import ConfigError
from edgekd.core.events import Event
from edgekd.ship.fleet.audit import AuditLog, Record
from edgekd.ship.fleet.inventory import Device, Rollout
from edgekd.ship.fleet.one_device import Work, bring
from edgekd.ship.fleet.records import Records, now_text
from edgekd.ship.fleet.result import QUEUED, DeviceResult, Outcome
from edgekd.ship.fleet.status import look_at
from edgekd.ship.fleet.together import each
from edgekd.ship.fleet.waves import Wave, halt_reason, planned_waves
from edgekd.ship.transport.answers import Model


@dataclass(frozen=True)
class Books:
    """Where it is written down what happens.

    Attributes:
        records: What is known of each device.
        log: The audit log.
    """

    records: Records
    log: AuditLog


@dataclass(frozen=True)
class Deployment:
    """How a roll-out went.

    Attributes:
        group: The group.
        desired: The release.
        deployment: Name of the roll-out, the same whenever it is gone on with.
        results: One for each device of the group.
        halted: Why it was stopped before its end; empty when it was not.
    """

    group: str
    desired: Model
    deployment: str
    results: tuple[DeviceResult, ...]
    halted: str = ""


def deployment_name(group: str, desired: Model) -> str:
    """Return the name of a roll-out."""
    return f"{group}-{sha256_of_json([group, desired.bundle_sha256])[:8]}"


def desired_of(work: Work, group: str) -> Model:
    """Return what a group is to run; raises `ConfigError` when nothing was published for it."""
    desired = work.source.desired(group)
    if desired is None:
        raise ConfigError(f"nothing was published for the group {group!r}: edgekd ship publish BUNDLE --group {group}")
    return desired


async def deploy(work: Work, books: Books, group: str, devices: Sequence[Device], rollout: Rollout) -> Deployment:
    """Roll the release of a group out.

    Args:
        work: What all devices share.
        books: Where it is written down.
        group: The group.
        devices: Its devices.
        rollout: Waves, concurrency, when to stop.

    Returns:
        How it went.

    Raises:
        ConfigError: Nothing was published for the group.
        StorageError: What happened cannot be written down; nothing more was started.
    """
    desired = desired_of(work, group)
    course = _Course(work, books, rollout, desired, deployment_name(group, desired))
    waves = planned_waves(rollout.waves, devices)
    results: list[DeviceResult] = []
    halted = ""
    for number, wave in enumerate(waves, start=1):
        if halted:
            results += [_not_started(device, wave, halted) for device in wave.devices]
            continue
        work.listener(Event("note", group, f"wave {wave.name}: {len(wave.devices)} devices", number, len(waves)))
        failed_before = sum(result.is_failed for result in results)
        outcomes, halted = await course.wave(wave, failed_before, is_last=number == len(waves))
        results += outcomes
    if halted:
        books.log.append(course.halt_record(group, halted))
        work.listener(Event("note", group, f"halted: {halted}"))
    return Deployment(group, desired, course.name, tuple(results), halted)


async def converge(work: Work, books: Books, devices: Sequence[Device], concurrency: int) -> tuple[DeviceResult, ...]:
    """Bring devices that were offline when their wave came to the release that waits for them.

    Args:
        work: What all devices share.
        books: Where it is written down.
        devices: Devices to look among.
        concurrency: Devices that are worked on at once.

    Returns:
        One result for each device that something waited for.
    """

    async def one(device: Device) -> DeviceResult | None:
        desired = work.source.desired(device.group)
        queued = books.records.of(device.id).queued
        if not queued or desired is None:
            return None
        if queued != desired.bundle_sha256:  # what waited was overtaken by another release, whose waves decide
            books.records.change(device.id, queued="")
            return None
        course = _Course(work, books, Rollout(), desired, deployment_name(device.group, desired))
        return await course.device(device, "queued")

    found = await each(devices, one, at_once=concurrency)
    return tuple(result for result in found if result is not None)


@dataclass
class _Course:
    work: Work
    books: Books
    rollout: Rollout
    desired: Model
    name: str

    async def wave(self, wave: Wave, failed_before: int, *, is_last: bool) -> tuple[list[DeviceResult], str]:
        """Work on one wave; returns its results and why the roll-out must stop."""
        failed, halted = 0, ""

        async def one(device: Device) -> DeviceResult:
            nonlocal failed, halted
            if halted:
                return _not_started(device, wave, halted)
            result = await self.device(device, wave.name)
            failed += result.is_failed
            halted = halted or self._halt(wave, failed_before, failed)
            return result

        results = await each(wave.devices, one, at_once=self.rollout.concurrency)
        if not halted:
            results = await self._after_a_while(wave, results)
            halted = self._halt(wave, failed_before, sum(result.is_failed for result in results))
        if not halted and not is_last and not any(result.is_done for result in results):
            halted = f"no device of the wave {wave.name} has the release, so nothing speaks for going on"
        return results, halted

    async def device(self, device: Device, wave: str) -> DeviceResult:
        """Work on one device and write down what became of it."""
        started = asyncio.get_running_loop().time()
        try:
            result = dataclasses.replace(await bring(self.work, device, self.desired), wave=wave)
        except asyncio.CancelledError:
            seconds = asyncio.get_running_loop().time() - started
            reason = "the operator stopped the command; an install there goes on"
            self._write(DeviceResult(device.id, device.group, "interrupted", reason, seconds=seconds, exit_code=130))
            raise
        self._write(result)
        return result

    def halt_record(self, group: str, reason: str) -> Record:
        """Return the record of a roll-out that was stopped."""
        digest = self.desired.bundle_sha256
        return Record("halt", self.work.owner, self.name, "", group, digest, "", "", "halted", reason, 0.0)

    async def _after_a_while(self, wave: Wave, results: list[DeviceResult]) -> list[DeviceResult]:
        """Wait, then see whether the wave's devices still run the release; they may have gone back by themselves."""
        fresh = {result.device_id for result in results if result.outcome == "installed"}
        if not fresh or not self.rollout.health_wait_s:
            return results
        self.work.listener(Event("note", wave.name, f"waiting {self.rollout.health_wait_s:g} s to see that it lasts"))
        await asyncio.sleep(self.rollout.health_wait_s)
        devices = {device.id: device for device in wave.devices}

        async def again(result: DeviceResult) -> DeviceResult:
            return await self._still(devices[result.device_id], result)

        there = [result for result in results if result.device_id in fresh]
        looks = await each(there, again, at_once=self.rollout.concurrency)
        seen = {result.device_id: result for result in looks}
        return [seen.get(result.device_id, result) for result in results]

    async def _still(self, device: Device, result: DeviceResult) -> DeviceResult:
        sight = await look_at(self.work, device)
        outcome: Outcome
        if sight.problem:
            outcome, reason, after = "silent", f"installed it, then stopped answering: {sight.problem}", result.after
        elif not self.desired.is_same(sight.current):
            outcome, after = "reverted", sight.current
            reason = f"installed it, then went back to {sight.current}: {sight.reason or 'no reason given'}"
        else:
            return result
        changed = dataclasses.replace(result, outcome=outcome, reason=reason, after=after, exit_code=3)
        changed = dataclasses.replace(changed, before=self.desired)
        self._write(changed)
        return changed

    def _halt(self, wave: Wave, failed_before: int, failed: int) -> str:
        return halt_reason(
            self.rollout.halt,
            failed_in_all=failed_before + failed,
            failed_in_wave=failed,
            wave_size=len(wave.devices),
        )

    def _write(self, result: DeviceResult) -> None:
        """Write down what became of a device: in the log when something happened, in its record always."""
        if result.outcome != "up-to-date":
            self.books.log.append(record_of(result, self.desired.bundle_sha256, self.work.owner, self.name))
        changes: dict[str, object] = {"result": result.outcome, "reason": result.reason}
        if result.outcome not in ("offline", "interrupted"):
            changes |= {"last_seen": now_text()}
        if result.after is not None:
            changes |= {"reported": result.after}
        if result.is_done:
            changes |= {"queued": "", "state": "idle"}
        if result.outcome in QUEUED:
            changes |= {"queued": self.desired.bundle_sha256}
        self.books.records.change(result.device_id, **changes)


def record_of(result: DeviceResult, digest: str, who: str, deployment: str) -> Record:
    """Return the audit record of what became of a device."""
    return Record(
        kind="device",
        who=who,
        deployment=deployment,
        device_id=result.device_id,
        group=result.group,
        digest=digest,
        before=_words(result.before),
        after=_words(result.after),
        result=result.outcome,
        reason=result.reason,
        seconds=result.seconds,
    )


def _not_started(device: Device, wave: Wave, why: str) -> DeviceResult:
    return DeviceResult(device.id, device.group, "not-started", f"halted: {why}", wave=wave.name, exit_code=1)


def _words(model: Model | None) -> str:
    return "" if model is None else str(model)
