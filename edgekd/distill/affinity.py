"""CPUs of their own for processes that train on one machine, or the system puts two on one CPU while another is idle.

Processes wait for each other many times a step; each time the system decides anew where they go on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist

from edgekd.distill.ranks import Ranks, losing_says_so
from edgekd.distill.threads import cpu_threads

_THREADS = Path("/proc/self/task")


@contextmanager
def own_cpus(ranks: Ranks) -> Iterator[None]:
    """Divide the CPUs among the connected processes that share them, for the time of the block, which all enter.

    Where a launcher has bound processes to CPUs of their own, where there are fewer CPUs than processes, and where the
    system knows no such thing, nothing changes.

    Raises:
        ProcessLost: Another process is gone.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = sorted(os.sched_getaffinity(0))
    told: list[tuple[str, list[int]]] = [("", [])] * ranks.of
    with losing_says_so(ranks):
        dist.all_gather_object(told, (os.uname().nodename, allowed))
    own = share_of(told, ranks.index)
    if own == allowed:
        yield
        return
    _bind(own)
    try:
        with cpu_threads(min(torch.get_num_threads(), len(own))):
            yield
    finally:
        _bind(allowed)


def share_of(told: Sequence[tuple[str, list[int]]], index: int) -> list[int]:
    """Return the CPUs of one process: its part of those that it shares with others of its machine.

    Args:
        told: The machine's name and the CPUs that each process may use.
        index: Which process.
    """
    allowed = told[index][1]
    sharing = [place for place, other in enumerate(told) if other == told[index]]
    part = len(allowed) // len(sharing)
    first = part * sharing.index(index)
    return allowed[first : first + part] or allowed


def _bind(cpus: Collection[int]) -> None:
    """Bind the threads of this process, those there are and those to come."""
    threads = [int(entry.name) for entry in _THREADS.iterdir()] if _THREADS.exists() else [threading.get_native_id()]
    for thread in threads:
        with suppress(OSError):  # It ended meanwhile.
            os.sched_setaffinity(thread, cpus)
