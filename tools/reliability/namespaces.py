"""Devices in network namespaces, each with a root of its own: provisioned, deployed to, cut off, rolled back over SSH.

A device is a copy-on-write view of this machine's file system behind a virtual cable, with its own users, `/opt`,
`/var/lib` and SSH server. Everything is done by the `edgekd` command, as an operator does it. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.ship import trust
from tools.reliability import models, ssh_server
from tools.reliability.fleet_lab import GROUP, published

_MAIN = "from edgekd.cli.main import main; main()"
_SSHD = """\
Include /etc/ssh/sshd_config.d/*.conf
Port 22
HostKey /etc/ssh/edgekd_host
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
PidFile /run/sshd.pid
UsePAM no
PermitRootLogin prohibit-password
Subsystem sftp {sftp}
"""
_START = """\
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
mount -t tmpfs tmpfs "$1/root/run"
mount -t tmpfs tmpfs "$1/root/tmp"
mkdir -p "$1/root/run/sshd"
chroot "$1/root" sh /etc/edgekd-services &
exec chroot "$1/root" /usr/sbin/sshd -D -e
"""
# What systemd does on a board: keeps the unit that answers the login running, as its user, with no more rights.
_SERVICES = """\
while :; do
    unit=/etc/systemd/system/edgekd-attend.service
    if [ -f "$unit" ] && id edgekd >/dev/null 2>&1; then
        set -- $(sed -n 's/^ExecStart=//p' "$unit")
        setpriv --reuid edgekd --regid edgekd --init-groups --no-new-privs "$@" &
        echo $! >/run/edgekd-attend.pid
        wait
    fi
    sleep 0.2
done
"""


@dataclass(frozen=True)
class Namespaced:
    """A device behind a virtual cable.

    Attributes:
        name: Its name; also that of its network namespace.
        folder: Where its file system's changes are.
        address: Its address.
        cable: This machine's end of the cable.
    """

    name: str
    folder: Path
    address: str
    cable: str

    def runs(self) -> str | None:
        """Return the digest of the bundle that it runs, read from its disk."""
        root = self.folder / "upper" / "var/lib/edgekd"
        if not (root / "current").is_symlink():
            return None
        about = root / "generations" / (root / "current").readlink().name / "generation.json"
        return str(json.loads(about.read_text())["bundle_sha256"])


def unavailable() -> str:
    """Say why this cannot be done here; empty when it can."""
    if os.getuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "ip or unshare is not installed"
    if reason := ssh_server.unavailable():
        return reason
    name = f"edgekd-{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces cannot be made here"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


def run(scratch: Path, *, devices: int = 2) -> dict[str, Any]:
    """Provision, deploy with one cable pulled in the middle, refuse a wrong model, roll back.

    Args:
        scratch: Where files go; not in memory on top of an overlay.
        devices: How many.

    Returns:
        Plain figures; `failures` counts what was not as it should be.
    """
    if reason := unavailable():
        return {"skipped": reason}
    with fleet_in_namespaces(scratch, devices) as site:
        provisioned = site.edgekd("provision", "--login", "root")
        first = site.publish(models.Recipe(version=1, padding_bytes=24 << 20))
        deploying = site.start("deploy")
        pulled = site.pull_a_cable(deploying)
        deployed = _ended(deploying)
        converged = site.edgekd("status", "--converge")
        runs_first = sum(device.runs() == first for device in site.devices)
        site.publish(models.Recipe(version=2, shift=0.5))
        refused = site.edgekd("deploy")
        kept = sum(device.runs() == first for device in site.devices)
        third = site.publish(models.Recipe(version=3))
        again = site.edgekd("deploy")
        runs_third = sum(device.runs() == third for device in site.devices)
        back = site.edgekd("rollback", "--all")
        verified = site.edgekd("history", "--verify")
        rolled_back = sum(device.runs() == first for device in site.devices)
    codes = [provisioned[1], converged[1], again[1], back[1], verified[1]]
    claims = [
        *(code == 0 for code in codes),
        deployed[1] in (0, 4),
        refused[1] == 3,
        *(count == devices for count in (runs_first, kept, runs_third, rolled_back)),
    ]
    return {
        "devices": devices,
        "cables_pulled": pulled,
        "provisioned": sum(one["outcome"] == "provisioned" for one in provisioned[0]["devices"]),
        "installed_first": runs_first,
        "kept_first_when_a_wrong_one_came": kept,
        "installed_third": runs_third,
        "rolled_back": rolled_back,
        "log_records": verified[0]["records"],
        "exit_codes": [*codes, deployed[1], refused[1]],
        "failures": sum(not claim for claim in claims),
    }


@dataclass(frozen=True)
class Site:
    """The operator's side.

    Attributes:
        folder: Where `fleet.yaml` is.
        signing: Folder of the signing keys.
        devices: The devices.
    """

    folder: Path
    signing: Path
    devices: tuple[Namespaced, ...]

    def publish(self, recipe: models.Recipe) -> str:
        """Publish a bundle for the group; returns its digest."""
        return published(self.folder / "fleet-repo", self.signing, self.folder / "bundles", recipe)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command of `edgekd fleet`."""
        command = [sys.executable, "-c", _MAIN, "fleet", *words, "-f", str(self.folder), "--json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def edgekd(self, *words: str) -> tuple[dict[str, Any], int]:
        """Run a command of `edgekd fleet`; returns its document and exit code."""
        return _ended(self.start(*words))

    def pull_a_cable(self, process: subprocess.Popen[str], *, seconds: float = 4.0) -> int:
        """Pull the first device's cable while a blob is on its way to it, and put it back; says how often."""
        device = self.devices[0]
        parts = device.folder / "upper" / "var/lib/edgekd-push/staging/blobs"
        while process.poll() is None:
            if any(part.stat().st_size > 1 << 20 for part in parts.glob("*.part")):
                subprocess.run(["ip", "link", "set", device.cable, "down"], check=True)
                time.sleep(seconds)
                subprocess.run(["ip", "link", "set", device.cable, "up"], check=True)
                return 1
            time.sleep(0.01)
        return 0


def _ended(process: subprocess.Popen[str]) -> tuple[dict[str, Any], int]:
    stdout, stderr = process.communicate(timeout=600)
    try:
        return json.loads(stdout), process.returncode
    except ValueError as error:
        raise RuntimeError(stderr[-2000:]) from error


@contextmanager
def fleet_in_namespaces(scratch: Path, count: int) -> Iterator[Site]:
    """Make devices, their repository and `fleet.yaml` for the length of a block."""
    folder, signing, keys = scratch / "fleet", scratch / "signing", scratch / "keys"
    keys.mkdir(parents=True)
    ssh_server.write_keys(keys)
    trust.init(folder / "fleet-repo", signing, [GROUP], root_keys=1, root_threshold=1)
    with ExitStack() as stack:
        devices = tuple(stack.enter_context(_device(scratch, keys, number)) for number in range(count))
        key = (keys / "host.pub").read_text()
        (folder / "known_hosts").write_text("".join(f"{device.address} {key}" for device in devices))
        document = {
            "schema_version": 1,
            "name": "namespaces",
            "ssh": {"known_hosts": "known_hosts", "identity": str(keys / "user")},
            "rollout": {
                "waves": ["canary", "100%"],
                "health_wait_s": 1,
                "timeouts": {"poll_s": 0.5, "silent_s": 90, "device_s": 300},
            },
            "groups": {GROUP: {"target": models.DEVICE}},
            "devices": [
                {"id": device.name, "address": f"edgekd-push@{device.address}", "group": GROUP} for device in devices
            ],
        }
        (folder / "fleet.yaml").write_text(json.dumps(document))
        yield Site(folder, signing, devices)


@contextmanager
def _device(scratch: Path, keys: Path, number: int) -> Iterator[Namespaced]:
    name, place = f"edgekd-{os.getpid()}-{number}", scratch / "devices" / str(number)
    subnet, cable = f"10.213.{os.getpid() % 250}.{number * 4}", f"ek{os.getpid() % 10000}-{number}"
    here, there = _neighbours(subnet)
    _lay_out(place, keys)
    subprocess.run(["ip", "netns", "add", name], check=True)
    process: subprocess.Popen[bytes] | None = None
    try:
        far = f"{cable}f"
        for words in (
            ["link", "add", cable, "type", "veth", "peer", "name", far, "netns", name],
            ["addr", "add", f"{here}/30", "dev", cable],
            ["link", "set", cable, "up"],
            ["-n", name, "addr", "add", f"{there}/30", "dev", far],
            ["-n", name, "link", "set", far, "up"],
            ["-n", name, "link", "set", "lo", "up"],
        ):
            subprocess.run(["ip", *words], check=True)
        process = _started(name, place)
        yield Namespaced(name, place, there, cable)
    finally:
        if process is not None:
            process.kill()  # unshare heeds nothing else; its child, and with it the whole device, dies with it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", cable], check=False, capture_output=True)


def _started(name: str, place: Path) -> subprocess.Popen[bytes]:
    enter = ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    with open(place / "server.log", "wb") as log:
        process = subprocess.Popen([*enter, "sh", "-c", _START, "device", str(place)], stdout=log, stderr=log)
    for _ in range(200):
        content = (place / "server.log").read_bytes()
        if b"Server listening" in content:
            return process
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server of {name} did not start: {content.decode(errors='replace')}")


def _lay_out(place: Path, keys: Path) -> None:
    """Prepare what differs from this machine: SSH, the operator's first way in as root, and a Python with a runtime."""
    upper = place / "upper"
    for folder in ("etc/ssh", "usr/bin", "usr/local/bin", "root/.ssh", "var/lib", "opt", "home"):
        (upper / folder).mkdir(parents=True)
    for folder in ("work", "root"):
        (place / folder).mkdir()
    sftp = next(path for path in ssh_server._SFTP_SERVERS if path.is_file())
    (upper / "etc/ssh/sshd_config").write_text(_SSHD.format(sftp=sftp))
    (upper / "etc/edgekd-services").write_text(_SERVICES)
    shutil.copy(keys / "host", upper / "etc/ssh/edgekd_host")
    shutil.copy(keys / "user.pub", upper / "root/.ssh/authorized_keys")
    (upper / "root/.ssh").chmod(0o700)
    (upper / "root/.bashrc").touch()  # this machine's own may take long, and is not a board's
    for binaries in ("usr/bin", "usr/local/bin"):
        python = upper / binaries / "python3"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)


def _neighbours(subnet: str) -> tuple[str, str]:
    start, _, last = subnet.rpartition(".")
    return f"{start}.{int(last) + 1}", f"{start}.{int(last) + 2}"
