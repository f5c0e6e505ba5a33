"""Devices that are pretended, behind the protocol of a session: good ones, and ones that go wrong in known ways."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.ship.fleet.source import Parcel
from edgekd.ship.transport.answers import Model
from edgekd.ship.transport.session import Answer, Need, Session
from edgekd.targets.ssh_connection import Unreachable

BEHAVIOURS = ("good", "dead", "slow", "failing", "reverting", "vanishing")


def model(version: int, name: str = "net") -> Model:
    """Return a release whose digest follows from its version."""
    return Model(name, version, hashlib.sha256(f"{name} {version}".encode()).hexdigest())


@dataclass
class SimulatedDevice:
    """A device and its agent.

    Attributes:
        device_id: Its name.
        group: Its group.
        behaviour: One of `BEHAVIOURS`. `dead` never answers; `failing` fails its health check; `slow` takes
            `install_s` a hundredfold; `reverting` goes back a while after it was done; `vanishing` answers no more once
            an install has begun.
        install_s: How long an install takes.
        current: What it runs.
        offered: What the metadata in its staging names.
        bad: Releases that failed on it, with the reason.
        operator: Who holds it.
        events: What was done to it.
    """

    device_id: str
    group: str = "line"
    behaviour: str = "good"
    install_s: float = 20.0
    current: Model | None = None
    previous: Model | None = None
    offered: Model | None = None
    bad: dict[str, str] = field(default_factory=dict)
    operator: str = ""
    last: dict[str, Any] | None = None
    state: str = "idle"
    is_reachable: bool = True
    root_version: int = 1
    blobs: set[str] = field(default_factory=set)
    events: list[str] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def answer(self, words: tuple[str, ...], source: SimulatedSource) -> Answer:
        """Do what a command of the agent does."""
        self.events.append(words[0])
        return getattr(self, f"_{words[0]}")(source, *words[1:])  # type: ignore[no-any-return]

    def _hello(self, source: SimulatedSource) -> Answer:
        document = {"agent": "0.1.0", "device_id": self.device_id, "group": self.group, "state": self.state}
        document |= {"root_version": self.root_version, "free_bytes": 1 << 30, "current": _document(self.current)}
        return Answer(0, document)

    def _lock(self, source: SimulatedSource, flag: str, owner: str) -> Answer:
        if self.operator not in ("", owner):
            return Answer(1, {"error": {"kind": "locked", "message": f"reserved by {self.operator} for 9 s"}})
        self.operator = owner
        return Answer(0, {"operator": {"owner": owner, "since_s": 0}})

    def _unlock(self, source: SimulatedSource, flag: str, owner: str, force: str = "") -> Answer:
        if not force and self.operator not in ("", owner):
            return Answer(1, {"error": {"kind": "locked", "message": f"reserved by {self.operator}"}})
        self.operator = ""
        return Answer(0, {})

    def _want(self, source: SimulatedSource) -> Answer:
        if self.offered is None:
            return Answer(6, {"error": {"kind": "trust", "message": "there is no metadata"}})
        missing = [] if self.offered.bundle_sha256 in self.blobs else [self.offered.bundle_sha256]
        entries = [{"sha256": digest, "size_bytes": 1000, "blocks": []} for digest in missing]
        bad = self.bad.get(self.offered.bundle_sha256)
        is_current = self.offered == self.current
        return Answer(0, {"release": _document(self.offered), "is_current": is_current, "bad": bad, "missing": entries})

    def _status(self, source: SimulatedSource) -> Answer:
        operator = {"owner": self.operator, "since_s": 0} if self.operator else None
        document: dict[str, Any] = {"state": self.state, "is_busy": self.state != "idle"}
        document |= {"current": _document(self.current), "previous": _document(self.previous)}
        return Answer(0, {**document, "candidate": None, "last": self.last, "progress": {}, "operator": operator})

    def _forgive(self, source: SimulatedSource, digest: str) -> Answer:
        self.bad.pop(digest, None)
        return Answer(0, {})

    def _rollback(self, source: SimulatedSource, flag: str, reason: str) -> Answer:
        if self.previous is None:
            return Answer(5, {"error": {"kind": "precondition", "message": "there is no previous generation"}})
        self.current, self.previous = self.previous, self.current
        return Answer(0, {"result": "rolled-back"})

    def _install(self, source: SimulatedSource, flag: str) -> Answer:
        wanted = self.offered
        if wanted is None or wanted.bundle_sha256 not in self.blobs:
            return Answer(1, {"error": {"kind": "missing", "message": "a blob is missing"}})
        if self.state == "idle" and wanted != self.current:
            self.state = "building"
            self.task = asyncio.ensure_future(self._installing(wanted))
        return Answer(0, {"result": "started"})

    async def _installing(self, wanted: Model) -> None:
        if self.behaviour == "vanishing":
            self.is_reachable = False
        await asyncio.sleep(self.install_s * (100 if self.behaviour == "slow" else 1))
        end: dict[str, Any] = {"bundle_sha256": wanted.bundle_sha256, "seconds": self.install_s}
        if self.behaviour == "failing":
            self.bad[wanted.bundle_sha256] = "health: max_abs_error 0.4 is above 0.01"
            self.last = {**end, "result": "failed", "kind": "health", "reason": "max_abs_error 0.4 is above 0.01"}
        else:
            self.last = {**end, "result": "installed", "kind": None, "reason": None}
            self.previous, self.current = self.current, wanted
        self.state = "idle"
        if self.behaviour == "reverting":
            await asyncio.sleep(15)
            self.bad[wanted.bundle_sha256] = "unconfirmed: no healthy heartbeats"
            self.last = {**end, "result": "reverted", "kind": "unconfirmed", "reason": "no healthy heartbeats"}
            self.current, self.previous = self.previous, None


@dataclass
class SimulatedSource:
    """A repository that wants one release of every group.

    Attributes:
        wanted: Release by group.
    """

    wanted: dict[str, Model]

    def desired(self, group: str) -> Model | None:
        """Return what a group is to run."""
        return self.wanted.get(group)

    def parcel(self, group: str, *, root_version: int) -> Parcel:
        """Return one blob named by the digest of the release."""
        digest = self.wanted[group].bundle_sha256
        return Parcel({"timestamp.json": Path("timestamp.json")}, {digest: Path(digest)})


@dataclass
class SimulatedTransport:
    """Opens sessions to simulated devices, by their address; drops calls at random.

    Attributes:
        devices: Device by address.
        source: The repository.
        chance: Where drops and delays come from.
        drop_share: Share of calls that fail because the link is gone for a moment.
        slow: Seconds that commands of these names take longer.
        begun: Names of the commands that were begun.
        most_at_once: Most sessions that were open at once.
    """

    devices: Mapping[str, SimulatedDevice]
    source: SimulatedSource
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    drop_share: float = 0.0
    slow: dict[str, float] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _open: int = 0

    @asynccontextmanager
    async def session(self, address: str, note: Callable[[str], None]) -> AsyncIterator[Session]:
        """Open a session."""
        device = self.devices[address]
        await asyncio.sleep(self.chance.uniform(0.01, 0.2))
        self._require(device)
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        try:
            yield _SimulatedSession(self, device)
        finally:
            self._open -= 1

    def _require(self, device: SimulatedDevice) -> None:
        if device.behaviour == "dead" or not device.is_reachable or self.chance.random() < self.drop_share:
            raise Unreachable(f"{device.device_id} cannot be reached: no route")


@dataclass
class _SimulatedSession:
    transport: SimulatedTransport
    device: SimulatedDevice

    async def agent(self, *words: str) -> Answer:
        self.transport.begun.append(words[0])
        await asyncio.sleep(self.transport.slow.get(words[0], 0.0))
        await self._pass()
        return self.device.answer(words, self.transport.source)

    async def put_metadata(self, files: Mapping[str, Path]) -> None:
        await self._pass()
        self.device.offered = self.transport.source.desired(self.device.group)

    async def push(self, blob: Path, need: Need, report: Callable[[int, int], None]) -> None:
        await self._pass()
        report(need.size_bytes, need.size_bytes)
        self.device.blobs.add(need.sha256)

    async def _pass(self) -> None:
        await asyncio.sleep(self.transport.chance.uniform(0.01, 0.1))
        self.transport._require(self.device)


def _document(release: Model | None) -> dict[str, Any] | None:
    if release is None:
        return None
    return {"name": release.name, "version": release.version, "bundle_sha256": release.bundle_sha256}
