"""Roll-outs over many simulated devices, some dead, slow or failing: halted as configured, no device lost."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.ship.fleet import AuditLog, Books, Deployment, Records, Work, converge, deploy
from edgekd.ship.fleet.inventory import Device, Halt, Rollout, Timeouts
from tools.reliability import virtual_time
from tools.reliability.simulated_devices import SimulatedDevice, SimulatedSource, SimulatedTransport, model

_TIMEOUTS = Timeouts(reach_tries=2, device_s=900, poll_s=2)
_LENIENT = Halt(max_failures=10_000, max_failed_share=1.0)
_STRICT = Halt(max_failures=4, max_failed_share=0.25)
_CANARIES = 3


@dataclass
class _Fleet:
    devices: dict[str, SimulatedDevice]
    transport: SimulatedTransport
    source: SimulatedSource
    books: Books
    inventory: list[Device]

    def work(self, seed: int, *, is_retried: bool = False) -> Work:
        chance = random.Random(seed)
        return Work(self.transport, self.source, "ann@desk", _TIMEOUTS, is_retried=is_retried, chance=chance)


def run(scratch: Path, *, devices: int = 200, seeds: int = 20, share_percent: int = 5) -> dict[str, Any]:
    """Roll a release out over fleets of simulated devices in virtual time.

    Args:
        scratch: Where the books go.
        devices: Devices a fleet.
        seeds: Fleets.
        share_percent: Percent that are dead, that are slow, and that fail, each.

    Returns:
        Plain figures; `failures` counts fleets in which something was not as configured.
    """
    figures: dict[str, Any] = {"devices": devices, "fleets": seeds, "halted": 0, "log_records": 0, "failures": 0}
    figures |= {"installed": 0, "offline": 0, "timed_out": 0, "failed": 0, "lost": 0, "converged": 0, "problems": []}
    for seed in range(seeds):
        for found in (_strict(scratch, devices, seed, share_percent), _lenient(scratch, devices, seed, share_percent)):
            problems = found.pop("problems")
            figures["failures"] += bool(problems)
            figures["problems"] += [f"seed {seed}: {problem}" for problem in problems]
            for key, value in found.items():
                figures[key] += value
    figures["problems"] = "; ".join(figures["problems"][:5])
    return figures


def _fleet(folder: Path, count: int, seed: int, share_percent: int) -> _Fleet:
    chance = random.Random(seed)
    each = math.ceil(count * share_percent / 100)
    kinds = ["dead"] * each + ["slow"] * each + ["failing"] * each
    ordinary = count - _CANARIES
    behaviours = ["good"] * _CANARIES + chance.sample(kinds + ["good"] * (ordinary - len(kinds)), ordinary)
    devices = {
        f"d{number}": SimulatedDevice(
            f"d{number}", behaviour=behaviour, current=model(1), install_s=chance.uniform(10, 60)
        )
        for number, behaviour in enumerate(behaviours)
    }
    source = SimulatedSource({"line": model(2)})
    transport = SimulatedTransport({f"edgekd@{name}": one for name, one in devices.items()}, source, chance)
    records = Records(folder)
    inventory = [
        Device(id=name, address=f"edgekd@{name}", group="line", canary=number < _CANARIES)
        for number, name in enumerate(devices)
    ]
    return _Fleet(devices, transport, source, Books(records, AuditLog(records.folder)), inventory)


def _strict(scratch: Path, count: int, seed: int, share_percent: int) -> dict[str, Any]:
    """Roll out with tight halt rules: it must stop, neither too early nor too late."""
    fleet = _fleet(scratch / f"strict-{seed}", count, seed, share_percent)
    concurrency = 16
    rollout = Rollout(concurrency=concurrency, halt=_STRICT, timeouts=_TIMEOUTS, health_wait_s=30)
    done = virtual_time.run(deploy(fleet.work(seed), fleet.books, "line", fleet.inventory, rollout))
    failed = sum(result.is_failed for result in done.results)
    touched = sum(bool(one.events) for one in fleet.devices.values())
    due = 2 * math.ceil(count * share_percent / 100) > _STRICT.max_failures  # those that fail and those that are slow
    problems = _common_problems(fleet, done)
    if bool(done.halted) != due:
        problems.append(f"halted is {bool(done.halted)}, should be {due}")
    if done.halted and failed > _STRICT.max_failures + concurrency:
        problems.append(f"{failed} failures before it stopped")
    if done.halted and touched == count:
        problems.append("it stopped only when every device had been touched")
    return {"halted": bool(done.halted), "log_records": fleet.books.log.verify().records, "problems": problems}


def _lenient(scratch: Path, count: int, seed: int, share_percent: int) -> dict[str, Any]:
    """Roll out without halting, then bring the dead back: nothing may be lost."""
    fleet = _fleet(scratch / f"lenient-{seed}", count, seed, share_percent)
    rollout = Rollout(concurrency=16, halt=_LENIENT, timeouts=_TIMEOUTS, health_wait_s=30)
    done = virtual_time.run(deploy(fleet.work(seed), fleet.books, "line", fleet.inventory, rollout))
    counts = {
        outcome: sum(result.outcome == outcome for result in done.results)
        for outcome in ("installed", "offline", "timed-out", "failed")
    }
    each = math.ceil(count * share_percent / 100)
    problems = _common_problems(fleet, done)
    expected = {"installed": count - 3 * each, "offline": each, "timed-out": each, "failed": each}
    if counts != expected:
        problems.append(f"{counts} instead of {expected}")
    for one in fleet.devices.values():
        one.behaviour, one.is_reachable, one.state = "good", True, "idle"
    back = virtual_time.run(converge(fleet.work(seed), fleet.books, fleet.inventory, 16))
    again = virtual_time.run(deploy(fleet.work(seed, is_retried=True), fleet.books, "line", fleet.inventory, rollout))
    lost = sum(one.current != model(2) for one in fleet.devices.values())
    problems += _common_problems(fleet, again)
    if lost or not all(result.is_done for result in again.results):
        problems.append(f"{lost} devices never came to the release")
    return {
        "installed": counts["installed"],
        "offline": counts["offline"],
        "timed_out": counts["timed-out"],
        "failed": counts["failed"],
        "converged": sum(result.is_done for result in back),
        "lost": lost,
        "log_records": fleet.books.log.verify().records,
        "problems": problems,
    }


def _common_problems(fleet: _Fleet, done: Deployment) -> list[str]:
    """Return what must never be, whatever the roll-out met."""
    problems = []
    if not fleet.books.log.verify().is_whole:
        problems.append("the log's chain is broken")
    if any(one.operator for one in fleet.devices.values()):
        problems.append("a device stayed reserved")
    if any(one.current not in (model(1), model(2)) for one in fleet.devices.values()):
        problems.append("a device runs nothing")
    if sorted(result.device_id for result in done.results) != sorted(fleet.devices):
        problems.append("a device has no result")
    failing = {name for name, one in fleet.devices.items() if one.behaviour == "failing"}
    if any(fleet.devices[name].current == model(2) for name in failing):
        problems.append("a device whose check failed runs the release")
    return problems
