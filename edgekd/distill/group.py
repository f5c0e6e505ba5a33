"""The processes that a launcher started: `edgekd distill --num-processes`, torchrun, accelerate launch or srun.

The first one runs the command. The others wait for trainings that it gives out, each a folder that all can read, and
take part in them. Between trainings nothing connects them but a store of keys, so that the first may export, build and
measure for as long as it takes, and may train alone what only one process can.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from edgekd.core.errors import ConfigError, ProcessLost
from edgekd.core.events import Listener
from edgekd.data import Dataset
from edgekd.distill.affinity import own_cpus
from edgekd.distill.jobs import Job, load_job, save_job
from edgekd.distill.ranks import ALONE, Ranks
from edgekd.distill.run import Outcome

_COLLECTIVE = timedelta(hours=2)
_MEETING = timedelta(minutes=10)
_PATIENCE = timedelta(minutes=1)
_FAREWELL = timedelta(seconds=15)
_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_NOTHING_MORE = "nothing more"


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


class Group:
    """This process and the others of a launch. Outside of trainings its environment looks like that of one alone.

    Args:
        ranks: Which process this is.

    Raises:
        ProcessLost: The others do not come.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._environment = {name: os.environ[name] for name in _NEEDED}
        try:
            self._store, _, _ = next(iter(rendezvous("env://", timeout=_MEETING)))
        except (RuntimeError, ValueError) as error:
            raise ProcessLost(f"process {ranks.index} of {ranks.of} could not reach the others: {error}") from error
        for name in _NEEDED:
            del os.environ[name]
        self._jobs = 0

    def train(self, job: Job, folder: Path, dataset: Dataset, listener: Listener) -> Outcome:
        """Give out a training and take part in it; called in the first process.

        Args:
            job: The training.
            folder: Where it is written down, for all to read.
            dataset: Its data.
            listener: Told of progress.

        Raises:
            ProcessLost: Another process ended.
            EdgeKDError: As `run_recipe`.
        """
        save_job(job, folder)
        self._store.set(self._key, str(folder.resolve()))
        with self.connected(job.settings.device):
            return job.run(dataset, listener)

    def follow(self, dataset: Dataset) -> None:
        """Take part in what the first process gives out, until it has nothing more; called in the others.

        Raises:
            ProcessLost: The first process ended.
            EdgeKDError: As `run_recipe`.
        """
        while (folder := self._given_out()) is not None:
            job = load_job(folder)
            with self.connected(job.settings.device):
                job.run(dataset)

    def dismiss(self) -> None:
        """Let the others go and see them off, for what they are told is kept here; called in the first process."""
        self._store.set(self._key, _NOTHING_MORE)
        with suppress(dist.DistStoreError):  # Whoever is gone already says nothing any more.
            self._store.wait([_leaving(rank) for rank in range(1, self.ranks.of)], _FAREWELL)

    @contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """Connect the processes for the time of the block, which all enter: by NCCL on GPUs, by gloo on CPUs.

        On CPUs each has its share of those it may use, as `own_cpus` says.

        Args:
            device: `auto`, `cpu` or `cuda`, as training is asked to run.

        Raises:
            ConfigError: There are fewer GPUs than processes on this machine.
            ProcessLost: The others do not come.
        """
        is_cuda = device != "cpu" and torch.cuda.is_available()
        if is_cuda:
            _take_gpu(int(self._environment["LOCAL_RANK"]))
        store = PrefixStore(self._key, self._store)
        self._jobs += 1
        with _environment(self._environment):
            try:
                # On GPUs gloo serves what lies on the host, such as the numbers of an evaluation.
                backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
                dist.init_process_group(
                    backend, store=store, rank=self.ranks.index, world_size=self.ranks.of, timeout=_COLLECTIVE
                )
            except (RuntimeError, ValueError) as error:
                raise ProcessLost(
                    f"process {self.ranks.index} of {self.ranks.of} could not connect with the others: {error}"
                ) from error
            try:
                with nullcontext() if is_cuda else own_cpus(self.ranks):
                    yield
            finally:
                dist.destroy_process_group()

    @property
    def _key(self) -> str:
        return f"edgekd/{self._jobs}"

    def _given_out(self) -> Path | None:
        while True:
            try:
                self._store.wait([self._key], _PATIENCE)
                told = self._store.get(self._key).decode()
                break
            except dist.DistStoreError:
                continue
            except (RuntimeError, ConnectionError) as error:
                raise ProcessLost(f"process {self.ranks.index} lost the first process: {error}") from error
        if told != _NOTHING_MORE:
            return Path(told)
        self._store.set(_leaving(self.ranks.index), "")
        return None


def _leaving(rank: int) -> str:
    return f"edgekd/leaving/{rank}"


def _take_gpu(local: int) -> None:
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}: start fewer, or set "
            "train.device=cpu"
        )
    torch.cuda.set_device(local)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Show Accelerate what the launcher had said."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
