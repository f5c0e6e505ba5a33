"""Joining the processes that a launcher started: `edgekd distill --num-processes`, torchrun, accelerate launch, srun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from edgekd.core.errors import ConfigError, ProcessLost
from edgekd.distill.ranks import ALONE, Ranks

_WAIT = timedelta(hours=2)
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched() -> Ranks:
    """Return which process this is, from what a launcher put into the environment; alone without one.

    Raises:
        ConfigError: The launcher's variables are incomplete.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return ALONE
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set: start with torchrun, with "
            "accelerate launch, or with --num-processes and without WORLD_SIZE"
        )
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


@contextmanager
def joined(ranks: Ranks, *, device: str) -> Iterator[None]:
    """Connect with the other processes for the time of the block: by NCCL on GPUs, by gloo on CPUs.

    Args:
        ranks: Which process this is; alone, nothing happens.
        device: `auto`, `cpu` or `cuda`, as training is asked to run.

    Raises:
        ConfigError: There are fewer GPUs than processes on this machine.
        ProcessLost: The others do not come.
    """
    if ranks.is_alone:
        yield
        return
    is_cuda = device != "cpu" and torch.cuda.is_available()
    if is_cuda:
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}: start fewer, or "
                "set train.device=cpu"
            )
        torch.cuda.set_device(local)
    try:
        # On GPUs gloo serves what lies on the host, such as the numbers of an evaluation.
        dist.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo", timeout=_WAIT)
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(f"process {ranks.index} of {ranks.of} could not reach the others: {error}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()
