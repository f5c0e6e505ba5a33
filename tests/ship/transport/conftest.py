"""A device that is a folder behind a real SSH server, and a wire to it that can be cut."""

import hashlib
import json
import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgekd.ship.fleet.source import Parcel
from edgekd.ship.transport import AgentPlace, SshTransport
from edgekd.ship.transport.answers import Model
from edgekd.targets.ssh_line import Pauses
from tools.reliability import ssh_server
from tools.reliability.wire import Wire

pytest.importorskip("asyncssh")
AGENT = Path(__file__).parent / "pretended_agent.py"


@dataclass
class Bench:
    """The device, its server, the wire."""

    root: Path
    server: ssh_server.SshServer
    wire: Wire
    notes: list[str] = field(default_factory=list)

    @property
    def address(self):
        return f"127.0.0.1:{self.wire.port}"

    @property
    def place(self):
        return AgentPlace(command=(sys.executable, str(AGENT)), root=str(self.root))

    def transport(self, **pauses):
        pauses = {"give_up_s": 20.0, "first_wait_s": 0.05, "longest_wait_s": 0.2, "jitter": 0.3, **pauses}
        return SshTransport(self.server.keys(self.wire.port), self.place, Pauses(**pauses), random.Random(0))

    def session(self, **pauses):
        return self.transport(**pauses).session(self.address, self.notes.append)

    def part(self, sha256):
        return self.root / "staging" / "blobs" / f"{sha256}.part"

    def want(self, blobs):
        """Put the metadata there as if it had been pushed."""
        release = {"name": "net", "version": 2, "bundle_sha256": "ab" * 32}
        document = {"release": release, "blobs": {sha: path.stat().st_size for sha, path in blobs.items()}}
        (self.root / "staging" / "metadata" / "desired.json").write_text(json.dumps(document))


@dataclass
class FolderSource:
    """A repository of one release, whose metadata nobody signed."""

    folder: Path
    blobs: dict[str, Path]
    version: int = 2

    def desired(self, group):
        return Model("net", self.version, hashlib.sha256(f"{self.version}".encode()).hexdigest())

    def parcel(self, group, *, root_version):
        desired = self.desired(group)
        release = {"name": desired.name, "version": desired.version, "bundle_sha256": desired.bundle_sha256}
        sizes = {sha: path.stat().st_size for sha, path in self.blobs.items()}
        path = self.folder / "desired.json"
        path.write_text(json.dumps({"release": release, "blobs": sizes}))
        return Parcel({"desired.json": path}, self.blobs)


@pytest.fixture(scope="session")
def ssh_keys(tmp_path_factory):
    if reason := ssh_server.unavailable():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("ssh-keys")
    ssh_server.write_keys(folder)
    return folder


def device_folder(folder, device_id="orin-1", group="line"):
    for name in ("staging/metadata", "staging/blobs"):
        (folder / name).mkdir(parents=True)
    (folder / "device.json").write_text(json.dumps({"device_id": device_id, "group": group}))
    return folder


@pytest.fixture(scope="session")
def server(ssh_keys):
    with ssh_server.running(ssh_keys) as one:
        yield one


@pytest.fixture
def bench(tmp_path, server):
    wire = Wire(server.port)
    yield Bench(device_folder(tmp_path / "device"), server, wire)
    wire.close()


@pytest.fixture
def make_blob(tmp_path):
    def make(size_bytes, seed=0):
        content = random.Random(seed).randbytes(size_bytes)
        sha256 = hashlib.sha256(content).hexdigest()
        path = tmp_path / "repo" / sha256
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return sha256, path

    return make


@pytest.fixture
def no_space():
    """A full file system of its own; needs root."""
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
