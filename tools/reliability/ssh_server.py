"""An OpenSSH server of its own, with keys of its own, for one folder that stands for a device."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekd.targets.ssh_connection import SshKeys

SSHD = Path("/usr/sbin/sshd")
_SFTP_SERVERS = (Path("/usr/lib/openssh/sftp-server"), Path("/usr/libexec/openssh/sftp-server"))


@dataclass(frozen=True)
class SshServer:
    """A running server.

    Attributes:
        folder: Where its keys and log are.
        host: Its address.
        port: Its port.
    """

    folder: Path
    host: str
    port: int

    def keys(self, port: int | None = None, host: str | None = None) -> SshKeys:
        """Return keys that trust it under another address and port, such as a relay's."""
        known = self.folder / f"known-{host or self.host}-{port or self.port}"
        key = (self.folder / "host.pub").read_text().strip()
        known.write_text(f"[{host or self.host}]:{port or self.port} {key}\n")
        return SshKeys(known, self.folder / "user")


def unavailable() -> str:
    """Say why no server can be started here; empty when one can."""
    if not SSHD.is_file() or not shutil.which("ssh-keygen"):
        return "OpenSSH's server is not installed"
    if not any(path.is_file() for path in _SFTP_SERVERS):
        return "OpenSSH's sftp-server is not installed"
    return ""


def login_into(home: Path, script: Path) -> Path:
    """Write a login that lands in a folder, whatever it runs, so that one machine can stand for many devices."""
    script.write_text(f"#!/bin/sh\ncd '{home}' || exit 1\nexec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n")
    script.chmod(0o755)
    return script


def write_keys(folder: Path) -> None:
    """Make the keys of host and user in a folder."""
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def running(
    folder: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = (), force: str | None = None
) -> Iterator[SshServer]:
    """Run a server for the length of a block.

    Args:
        folder: Where its keys and log go.
        host: Address it listens on.
        prefix: Words before the command, such as those that enter a network namespace.
        force: Command that every login runs instead of what it asked for.

    Yields:
        The server, once it answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "host").exists():
        write_keys(folder)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    sftp = next(path for path in _SFTP_SERVERS if path.is_file())
    lines = [f"Port {port}", f"ListenAddress {host}", f"HostKey {folder / 'host'}"]
    lines += [f"AuthorizedKeysFile {folder / 'user.pub'}", "PasswordAuthentication no", "StrictModes no"]
    lines += ["PidFile none", "UsePAM no", "PermitRootLogin yes", "MaxStartups 200", f"Subsystem sftp {sftp}"]
    lines += [f"ForceCommand {force}"] if force else []
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    with open(folder / "server.log", "wb") as log:
        command = [*prefix, str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(process, folder, host, port, prefix)
        yield SshServer(folder, host, port)
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], folder: Path, host: str, port: int, prefix: Sequence[str]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            break
        if prefix:  # another namespace cannot be asked from here: its log says when it listens
            if b"Server listening" in (folder / "server.log").read_bytes():
                return
        else:
            with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
                return
        time.sleep(0.05)
    raise RuntimeError((folder / "server.log").read_text())
