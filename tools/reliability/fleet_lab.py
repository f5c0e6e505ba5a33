"""A whole fleet on one machine: real agents in folders, each behind a real SSH server, a real signed repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.ship import trust
from edgekd.ship.agent_program import agent_program
from tools.reliability import models, ssh_server
from tools.reliability.wire import Wire

GROUP = "line"


@dataclass
class LabDevice:
    """A device of the lab.

    Attributes:
        name: Its name.
        home: Where its login lands; the agent's data are in `data` there.
        server: Its SSH server.
        wire: The way to it.
    """

    name: str
    home: Path
    server: ssh_server.SshServer
    wire: Wire

    @property
    def root(self) -> Path:
        """Its agent's folder."""
        return self.home / "data"

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"127.0.0.1:{self.wire.port}"

    def runs(self) -> str | None:
        """Return the digest of the bundle that it runs, read from its disk."""
        about = self.root / "current" / "generation.json"
        if not about.is_file():
            return None
        return str(json.loads(about.read_text())["bundle_sha256"])


@dataclass
class Lab:
    """The fleet.

    Attributes:
        folder: Where all of it lies; `fleet.yaml` is in `fleet` there.
        devices: Its devices by name.
        program: The agent.
    """

    folder: Path
    program: Path
    devices: dict[str, LabDevice] = field(default_factory=dict)

    @property
    def fleet(self) -> Path:
        """Folder of `fleet.yaml`."""
        return self.folder / "fleet"

    @property
    def repository(self) -> Path:
        """Folder of the signed releases."""
        return self.fleet / "fleet-repo"

    @property
    def keys(self) -> Path:
        """Folder of the signing keys."""
        return self.folder / "signing"

    def publish(self, recipe: models.Recipe) -> str:
        """Publish a bundle for the group; returns its digest."""
        return published(self.repository, self.keys, self.folder / "bundles", recipe)

    def write_inventory(self, **rollout: Any) -> None:
        """Write `fleet.yaml`, the first device being the canary."""
        devices = [
            {"id": one.name, "address": one.address, "group": GROUP, "canary": number == 0}
            for number, one in enumerate(self.devices.values())
        ]
        known = self.fleet / "known_hosts"
        known.write_text(
            "".join((one.server.keys(one.wire.port).known_hosts or known).read_text() for one in self._all)
        )
        any_server = next(iter(self.devices.values())).server
        document = {
            "schema_version": 1,
            "name": "lab",
            "ssh": {"known_hosts": "known_hosts", "identity": str(any_server.folder / "user")},
            "agent": {"command": [sys.executable, str(self.program)], "root": "data"},
            "rollout": {
                "waves": ["canary", "100%"],
                "health_wait_s": 0,
                "timeouts": {"poll_s": 0.2, "reach_tries": 1, "silent_s": 30, "device_s": 120},
                **rollout,
            },
            "groups": {GROUP: {"target": models.DEVICE}},
            "devices": devices,
        }
        (self.fleet / "fleet.yaml").write_text(json.dumps(document))

    @property
    def _all(self) -> Sequence[LabDevice]:
        return list(self.devices.values())


@contextmanager
def lab(folder: Path, names: Sequence[str], **rollout: Any) -> Iterator[Lab]:
    """Run a fleet for the length of a block.

    Args:
        folder: Where it goes.
        names: Names of its devices.
        rollout: Settings of the roll-out beside those of the lab.

    Yields:
        The fleet; nothing is published yet.
    """
    program = folder / "edgekd-agent.pyz"
    folder.mkdir(parents=True, exist_ok=True)
    program.write_bytes(agent_program().content)
    made = Lab(folder, program)
    trust.init(made.repository, made.keys, [GROUP], root_keys=1, root_threshold=1)
    with ExitStack() as stack:
        for name in names:
            made.devices[name] = stack.enter_context(_device(made, name))
        made.write_inventory(**rollout)
        yield made


@contextmanager
def _device(made: Lab, name: str) -> Iterator[LabDevice]:
    home, ssh = made.folder / "devices" / name, made.folder / "ssh" / name
    ssh.mkdir(parents=True)
    first = next(iter(made.devices.values()), None)
    if first is not None:  # one key for every login, as an operator has
        for file in ("host", "host.pub", "user", "user.pub"):
            (ssh / file).write_bytes((first.server.folder / file).read_bytes())
            (ssh / file).chmod(0o600)
    provision(home / "data", name, made.repository)
    with ssh_server.running(ssh, force=ssh_server.login_into(home, ssh / "login")) as server:
        wire = Wire(server.port)
        try:
            yield LabDevice(name, home, server, wire)
        finally:
            wire.close()


def provision(root: Path, name: str, repository: Path) -> None:
    """Make an agent's folder as provisioning leaves it."""
    for place in ("trust", "staging/metadata", "staging/blobs"):
        (root / place).mkdir(parents=True)
    (root / "trust" / "root.json").write_bytes((repository / "metadata" / "1.root.json").read_bytes())
    device = {"schema_version": 1, "device_id": name, "group": GROUP, "selector": {"device": models.DEVICE}}
    (root / "device.json").write_text(json.dumps(device))
    (root / "agent.json").write_text(json.dumps({"schema_version": 1, "reserve_mib": 1}))


def published(repository: Path, keys: Path, bundles: Path, recipe: models.Recipe) -> str:
    """Write a bundle and publish it for the group of the lab; returns its digest."""
    made = models.bundle(recipe)
    folder = bundles / made.sha256[:12]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle.json").write_bytes(made.manifest)
    for artifact in json.loads(made.manifest)["artifacts"]:
        (folder / artifact["path"]).write_bytes(made.blobs[artifact["sha256"]])
    return trust.publish(repository, keys, folder, GROUP).bundle_sha256
