"""Several processes of one command on this machine, watched: when one ends, the others do not go on without it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from edgekd.core.errors import ConfigError, ExitCode

_POLL_S = 0.2
_GRACE_S = 10.0
_PROGRAM = "from edgekd.cli.main import main; main()"
LIFELINE = "EDGEKD_LIFELINE"
"""Names the file descriptor at whose end a process of a launch ends too."""


@dataclass(frozen=True)
class Finished:
    """How the processes ended.

    Attributes:
        stdout: What the first one printed as its result.
        exit_code: Its exit code, or that of the one that failed.
        message: Which process ended the others, or nothing.
    """

    stdout: str
    exit_code: int
    message: str = ""


def launch(words: Sequence[str], processes: int) -> Finished:
    """Run this command as several processes and wait for all.

    Args:
        words: The command line after the program's name.
        processes: How many.
    """
    reading, writing = os.pipe()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, LIFELINE: str(reading)}
    common |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": _threads(processes)}
    with tempfile.TemporaryFile("w+") as results:
        children = [_start(words, rank, common, reading, results) for rank in range(processes)]
        os.close(reading)
        try:
            code, message = _watch(children)
        finally:
            os.close(writing)
            _end(children)
        results.seek(0)
        return Finished(results.read(), code, message)


def is_launched(processes: int) -> bool:
    """Say whether this process is one of several already, as a launcher's variables tell.

    Raises:
        ConfigError: It is one of another number than asked for.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return False
    if world != processes:
        raise ConfigError(f"a launcher started {world} processes: leave --num-processes {processes} out")
    return True


def end_with_the_launcher() -> None:
    """Have this process end when the one that launched it is gone, however that ended."""
    descriptor = os.environ.pop(LIFELINE, None)
    if descriptor is None:
        return
    import threading

    def wait() -> None:
        os.read(int(descriptor), 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        os._exit(int(ExitCode.FAILED))

    threading.Thread(target=wait, daemon=True).start()


def _threads(processes: int) -> str:
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes))


def _start(
    words: Sequence[str], rank: int, common: Mapping[str, str], lifeline: int, results: IO[str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words],
        env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        stdout=results if rank == 0 else subprocess.DEVNULL,
        pass_fds=[lifeline],
    )


def _watch(children: Sequence[subprocess.Popen[bytes]]) -> tuple[int, str]:
    """Wait for all, or for the first that fails; returns the exit code and what to say."""
    while True:
        codes = [child.poll() for child in children]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0, ExitCode.GATE_MISSED)]
        # Those that another one's end has made fail come after it; a signal names the cause.
        failed.sort(key=lambda rank: (codes[rank] or 0) > 0)
        if failed:
            return _given_up(children, failed[0])
        if None not in codes:
            return int(codes[0] or 0), ""
        time.sleep(_POLL_S)


def _given_up(children: Sequence[subprocess.Popen[bytes]], rank: int) -> tuple[int, str]:
    code = children[rank].returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    message = (
        f"process {rank} of {len(children)} {how}, so the others were ended; run the same command again to go on from "
        "the last state kept"
    )
    return (code if code > 0 else int(ExitCode.FAILED)), message


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _GRACE_S
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
        if child.poll() is None:
            child.kill()
            child.wait()
