"""A push that is cut at random places: every one must resume, and send at most one block twice.

A real agent behind a real SSH server, and a relay between that cuts, stalls, or passes 1 kB/s for a while.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.ship.fleet.repository import RepositorySource
from edgekd.ship.fleet.source import Parcel
from edgekd.ship.transport import AgentPlace, SshTransport
from edgekd.ship.transport.answers import needs_from
from edgekd.ship.transport.session import BLOCK_BYTES, Need
from edgekd.targets.ssh_line import Pauses
from tools.reliability import models, ssh_server
from tools.reliability.fleet_lab import GROUP, Lab, LabDevice, lab
from tools.reliability.wire import Trouble

_PAUSES = Pauses(give_up_s=60, first_wait_s=0.05, longest_wait_s=0.5, jitter=0.3)
_BESIDE_BYTES = 200_000  # what a connection sends beside the blob: keys, requests, the agent's commands


@dataclass
class _Push:
    """One push and what was seen of it: where each try began, and how much was there then."""

    part: Path
    starts: list[tuple[int, int]] = field(default_factory=list)
    last: int = -1

    def report(self, done: int, total: int) -> None:
        """Note the first report of each try: it comes before the part is touched."""
        if self.last < 0 or done < self.last:
            self.starts.append((done, self.part.stat().st_size if self.part.exists() else 0))
        self.last = done


def run(scratch: Path, *, cuts: int = 200, mib: int = 20, seed: int = 7) -> dict[str, Any]:
    """Push a blob again and again, cut once or more each time.

    Args:
        scratch: Where the device and the repository go.
        cuts: Pushes, each cut at a random byte; every tenth also stalls, every twentieth is slow for a while.
        mib: Size of the blob.
        seed: Of the places.

    Returns:
        Plain figures; `failures` counts pushes that did not end whole, or sent more than one block twice.
    """
    if reason := ssh_server.unavailable():
        return {"skipped": reason}
    figures = {"cuts": cuts, "connections": 0, "stalls": 0, "slow": 0, "largest_resent_bytes": 0, "failures": 0}
    chance = random.Random(seed)
    with lab(scratch / "lab", ["device"]) as made:
        made.publish(models.Recipe(version=1, padding_bytes=mib << 20))
        device = made.devices["device"]
        blob, need, parcel = _largest(made, device)
        for number in range(cuts):
            _add(figures, _one(made, device, blob, need, _trouble(number, need.size_bytes, chance)))
        figures["block_bytes"] = BLOCK_BYTES
        figures["metadata_files"] = len(parcel.metadata)
    return figures


def _trouble(number: int, size_bytes: int, chance: random.Random) -> Trouble:
    trouble = Trouble(cut_after_bytes=chance.randrange(5_000, size_bytes))
    if number % 10 == 3:
        trouble.stall_after_bytes, trouble.stall_s = trouble.cut_after_bytes // 2, 1.0
    if number % 20 == 7:
        trouble.bytes_per_s = 1000.0
    return trouble


def _largest(made: Lab, device: LabDevice) -> tuple[Path, Need, Parcel]:
    """Leave the metadata on the device, and return the largest blob that it lacks."""
    parcel = RepositorySource(made.repository).parcel(GROUP, root_version=1)

    async def ask() -> tuple[Need, ...]:
        async with _transport(made, device).session(device.address, lambda message: None) as session:
            await session.put_metadata(parcel.metadata)
            return needs_from((await session.agent("want")).document, device.name)

    need = max(asyncio.run(ask()), key=lambda one: one.size_bytes)
    return parcel.blobs[need.sha256], need, parcel


def _one(made: Lab, device: LabDevice, blob: Path, need: Need, trouble: Trouble) -> dict[str, int]:
    parts = device.root / "staging" / "blobs"
    shutil.rmtree(parts)
    parts.mkdir()
    part = parts / f"{need.sha256}.part"
    wire, push = device.wire, _Push(part)
    sent, connections, cut = wire.bytes_sent, wire.connections, wire.cuts
    is_slow, is_stalling = trouble.bytes_per_s is not None, trouble.stall_after_bytes is not None
    wire.trouble = trouble

    async def work() -> None:
        fast_again = asyncio.get_running_loop().call_later(8.0, setattr, trouble, "bytes_per_s", None)
        async with _transport(made, device).session(device.address, lambda message: None) as session:
            await session.push(blob, need, push.report)
        fast_again.cancel()

    asyncio.run(work())
    wire.trouble = Trouble()
    tries = wire.connections - connections
    resent = max((there - start for start, there in push.starts), default=0)
    limit = need.size_bytes + (tries - 1) * BLOCK_BYTES + tries * _BESIDE_BYTES
    in_flight = (tries - 1) * (4 << 20)  # taken by the wire, never by the device
    is_whole = part.read_bytes() == blob.read_bytes()
    is_frugal = 0 <= resent <= BLOCK_BYTES and wire.bytes_sent - sent <= limit + in_flight
    return {
        "connections": tries,
        "stalls": int(is_stalling),
        "slow": int(is_slow),
        "largest_resent_bytes": resent,
        "failures": int(not (is_whole and is_frugal and wire.cuts > cut)),
    }


def _add(figures: dict[str, Any], one: dict[str, int]) -> None:
    for key, value in one.items():
        figures[key] = max(figures[key], value) if key == "largest_resent_bytes" else figures[key] + value


def _transport(made: Lab, device: LabDevice) -> SshTransport:
    import sys

    keys = device.server.keys(device.wire.port)
    return SshTransport(
        keys, AgentPlace(command=(sys.executable, str(made.program)), root="data"), _PAUSES, random.Random(1)
    )
