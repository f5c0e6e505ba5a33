"""Ask a board over SSH what it is: fixed commands that only read, their answers parsed like files a user would bring.

Host keys are pinned (`ssh_connection`); an unknown host is refused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekd.core.errors import DataError
from edgekd.targets.board import BoardKnowledge
from edgekd.targets.device_query import parse_pairs
from edgekd.targets.nvpmodel import ConfMode, parse_nvpmodel_conf, parse_nvpmodel_query
from edgekd.targets.ssh_connection import TIMEOUT_S, Address, SshKeys, connected

_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")

# CUdevice_attribute numbers of the CUDA driver API; every Python of every JetPack runs this.
CUDA_PROGRAM = """\
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
def ok(code):
    if code: raise SystemExit("CUDA error %d" % code)
ok(cuda.cuInit(0))
device, value, name, total = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
ok(cuda.cuDeviceGet(ctypes.byref(device), 0))
ok(cuda.cuDeviceGetName(name, 256, device))
ok(cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device))
def of(attribute):
    ok(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
    return value.value
print("name=%s" % name.value.decode())
print("memory_bytes=%d" % total.value)
print("sm=%d" % (10 * of(75) + of(76)))
for key in ("sms=16", "clock_khz=13", "l2_bytes=38", "integrated=18", "memory_khz=36", "bus_bits=37"):
    print("%s=%d" % (key.split("=")[0], of(int(key.split("=")[1]))))
"""
COMMANDS: dict[str, str] = {
    "gpu": f"python3 - <<'END'\n{CUDA_PROGRAM}END",
    "release": "cat /etc/nv_tegra_release",
    "mode": "nvpmodel -q",
    "status": "cat /var/lib/nvpmodel/status",
    "conf": "cat /etc/nvpmodel.conf",
}
"""All that is ever run on a board; nothing is written or changed there."""


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    stdout: str
    stderr: str
    exit_status: int


class Shell(Protocol):
    """Something that runs commands on a board."""

    async def run(self, command: str) -> Answer:
        """Run one command to its end."""
        ...


def probe(address: Address, *, known_hosts: Path | None = None, identity: Path | None = None) -> BoardKnowledge:
    """Connect to a board and ask it what it is.

    Args:
        address: Where it answers.
        known_hosts: File of trusted host keys instead of the user's and edgekd's own.
        identity: Private key instead of the user's.

    Returns:
        What it said.

    Raises:
        PreconditionError: asyncssh is not installed.
        TargetError: It cannot be reached, its host key is unknown or has changed, or it refuses the login.
        DataError: It answered, but not as a board with a CUDA GPU does.
    """
    return asyncio.run(_probe(address, SshKeys(known_hosts, identity)))


async def ask(shell: Shell, seen_by: str) -> BoardKnowledge:
    """Run the fixed commands and parse their answers.

    Args:
        shell: Where to run them.
        seen_by: The board in words, for the status of its figures.

    Returns:
        What it said; a GPU without power modes (no Jetson) is fine.

    Raises:
        DataError: There is no CUDA GPU, or an answer cannot be read.
    """
    answers = {what: await shell.run(command) for what, command in COMMANDS.items()}
    gpu = answers["gpu"]
    if gpu.exit_status != 0:
        why = (gpu.stderr or gpu.stdout).strip().splitlines()[-1:] or [f"exit status {gpu.exit_status}"]
        raise DataError(f"{seen_by} does not show a CUDA GPU: {why[0]}")
    release = _L4T.search(answers["release"].stdout)
    conf = answers["conf"]
    modes = parse_nvpmodel_conf(conf.stdout) if conf.exit_status == 0 else ()
    return BoardKnowledge(
        gpu=parse_pairs(gpu.stdout),
        mode=_mode_of(answers["mode"], answers["status"], modes),
        modes=modes,
        l4t=f"{release[1]}.{release[2]}" if release else None,
        seen_by=seen_by,
    )


def _mode_of(query: Answer, status: Answer, modes: Sequence[ConfMode]) -> str | None:
    """Name the mode by `nvpmodel -q`, which some releases keep for root, else by its number in the board's files."""
    if query.exit_status == 0:
        return parse_nvpmodel_query(query.stdout)[0]
    number = re.search(r"pmode:(\d+)", status.stdout)
    names = {mode.id: mode.name for mode in modes}
    return names.get(int(number[1])) if number else None


class _Connection:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def run(self, command: str) -> Answer:
        done = await self._connection.run(command, check=False, timeout=TIMEOUT_S, encoding="utf-8", errors="replace")
        status = done.exit_status if done.exit_status is not None else -1
        return Answer(str(done.stdout or ""), str(done.stderr or ""), status)


async def _probe(address: Address, keys: SshKeys) -> BoardKnowledge:
    async with connected(address, keys) as connection:
        return await ask(_Connection(connection), address.host)
