"""A fleet of simulated devices in virtual time, with its books on disk."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from edgekd.ship.fleet import AuditLog, Books, Records, Work, converge, deploy, roll_back, statuses
from edgekd.ship.fleet.inventory import Device, Halt, Rollout, Timeouts
from tools.reliability import virtual_time
from tools.reliability.simulated_devices import SimulatedDevice, SimulatedSource, SimulatedTransport, model


@dataclass
class World:
    """Simulated devices, their repository, and the books of one operator."""

    devices: dict[str, SimulatedDevice]
    source: SimulatedSource
    transport: SimulatedTransport
    books: Books
    events: list
    owner: str = "ann@desk"
    is_retried: bool = False
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(reach_tries=2, device_s=600, poll_s=1))

    @property
    def inventory(self):
        return [
            Device(id=name, address=f"edgekd@{name}", group=one.group, canary=name.startswith("canary"))
            for name, one in self.devices.items()
        ]

    @property
    def work(self):
        return Work(
            self.transport,
            self.source,
            self.owner,
            self.timeouts,
            self.events.append,
            self.is_retried,
            random.Random(1),
        )

    def deploy(self, **rollout):
        rollout = {"health_wait_s": 30, "timeouts": self.timeouts, **rollout}
        work = deploy(self.work, self.books, "line", self.inventory, Rollout(**rollout))
        return virtual_time.run(work)

    def converge(self):
        return virtual_time.run(converge(self.work, self.books, self.inventory, 8))

    def roll_back(self):
        return virtual_time.run(roll_back(self.work, self.books, self.inventory, 8))

    def status(self, **how):
        return virtual_time.run(statuses(self.work, self.books.records, self.inventory, 8, **how))

    def outcomes(self, deployment):
        return {result.device_id: result.outcome for result in deployment.results}

    def logged(self):
        return [(record["device_id"], record["result"]) for record in self.books.log.read()]


@pytest.fixture
def make_world(tmp_path):
    def make(count=10, version=2, running=1, **behaviours):
        names = ["canary-0", *(f"d{number}" for number in range(1, count))]
        devices = {
            name: SimulatedDevice(
                name, behaviour=behaviours.get(name.replace("-", "_"), "good"), current=model(running)
            )
            for name in names
        }
        source = SimulatedSource({"line": model(version)})
        transport = SimulatedTransport({f"edgekd@{name}": one for name, one in devices.items()}, source)
        records = Records(tmp_path / "repo")
        return World(devices, source, transport, Books(records, AuditLog(records.folder)), [])

    return make


LENIENT = Halt(max_failures=100, max_failed_share=1.0)


@pytest.fixture
def lenient():
    return LENIENT


@pytest.fixture
def interrupted():
    """Run a coroutine in virtual time and cancel it after so many virtual seconds."""

    def run(work, after_s):
        async def cut():
            task = asyncio.ensure_future(work)
            await asyncio.sleep(after_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        virtual_time.run(cut())

    return run
