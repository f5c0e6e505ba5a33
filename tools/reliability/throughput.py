"""How fast a blob is pushed, beside plain `scp` of the same file to the same server in the same run."""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from edgekd.ship.transport import AgentPlace, Need, SshTransport
from tools.reliability import ssh_server

_MIB = 1 << 20


def run(scratch: Path, *, mib: int = 256, rounds: int = 5) -> dict[str, Any]:
    """Push and copy in turns.

    Args:
        scratch: Where files go.
        mib: Size of the file.
        rounds: Times that each is done; medians are compared.

    Returns:
        Plain figures; `missed` is 1 when a push is slower than 0.8 of `scp`.
    """
    if reason := ssh_server.unavailable():
        return {"skipped": reason}
    blob = scratch / "blob"
    blob.write_bytes(os.urandom(mib * _MIB))
    with ssh_server.running(scratch / "ssh") as server:
        return measured(server, blob, scratch / "device", rounds)


def measured(server: ssh_server.SshServer, blob: Path, device: Path, rounds: int) -> dict[str, Any]:
    """Push and copy a file to a server in turns; returns plain figures."""
    (device / "staging" / "blobs").mkdir(parents=True)
    mib = blob.stat().st_size / _MIB
    pushes, copies = [], []
    for _ in range(rounds):
        copies.append(mib / _copied_s(server, blob, device))
        pushes.append(mib / _pushed_s(server, blob, device))
    ratio = statistics.median(pushes) / statistics.median(copies)
    return {
        "mib": round(mib),
        "rounds": rounds,
        "push_mib_s": round(statistics.median(pushes), 1),
        "scp_mib_s": round(statistics.median(copies), 1),
        "share_of_scp": round(ratio, 3),
        "missed": int(ratio < 0.8),
    }


def _pushed_s(server: ssh_server.SshServer, blob: Path, device: Path) -> float:
    transport = SshTransport(server.keys(), AgentPlace(root=str(device)))
    need = Need(hashlib.sha256(blob.name.encode()).hexdigest(), blob.stat().st_size)
    target = device / "staging" / "blobs" / f"{need.sha256}.part"
    target.unlink(missing_ok=True)

    async def push() -> None:
        async with transport.session(f"{server.host}:{server.port}", lambda message: None) as session:
            await session.push(blob, need, lambda done, total: None)

    started = time.perf_counter()
    asyncio.run(push())
    seconds = time.perf_counter() - started
    if target.stat().st_size != need.size_bytes:
        raise RuntimeError("the push is not whole")
    return seconds


def _copied_s(server: ssh_server.SshServer, blob: Path, device: Path) -> float:
    keys = server.keys()
    target = device / "copied"
    target.unlink(missing_ok=True)
    options = [f"UserKnownHostsFile={keys.known_hosts}", f"IdentityFile={keys.identity}", "IdentitiesOnly=yes"]
    words = ["scp", "-q", "-P", str(server.port), *(word for option in options for word in ("-o", option))]
    started = time.perf_counter()
    subprocess.run([*words, str(blob), f"{server.host}:{target}"], check=True)
    seconds = time.perf_counter() - started
    if target.stat().st_size != blob.stat().st_size:
        raise RuntimeError("the copy is not whole")
    return seconds
