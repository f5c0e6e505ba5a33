"""One model built and measured on several boards at once; a board that fails does not hold up the others."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.boards.checks import require_fit, warnings_of
from edgekd.boards.dla import words_of
from edgekd.boards.facts import BoardFacts, facts_from_json
from edgekd.boards.follow import done_job, failure_of
from edgekd.boards.job import BoardJob, job_for
from edgekd.boards.options import BoardOptions, Patience
from edgekd.boards.remote import Board
from edgekd.boards.results import (
    FAILURE_NAME,
    Asked,
    fetch_engine,
    fetch_failure,
    finished_here,
    require_place,
    write_failure,
)
from edgekd.core.artifacts import Engine, OnnxModel
from edgekd.core.errors import ConfigError, EdgeKDError, StorageError, TargetError
from edgekd.core.events import Event, Listener, silent
from edgekd.targets.ssh_connection import Address, SshKeys
from edgekd.targets.ssh_probe import CUDA_PROGRAM
from edgekd.targets.target import Target


@dataclass(frozen=True)
class BoardResult:
    """How it went on one board.

    Attributes:
        name: Name of its folder.
        device: Its address.
        folder: What it made, or its logs.
        engine: The engine; None when there is none.
        error: Why there is none.
        facts: The board as found; None when it was not reached.
        warnings: What belongs beside its figures.
        seconds: How long it took, all told.
    """

    name: str
    device: str
    folder: Path
    engine: Engine | None
    error: EdgeKDError | None
    facts: BoardFacts | None
    warnings: tuple[str, ...]
    seconds: float


def build_on_boards(
    model: OnnxModel,
    boards: Mapping[str, Address],
    output: Path,
    options: BoardOptions,
    *,
    targets: Mapping[str, Target] | None = None,
    keys: SshKeys | None = None,
    patience: Patience | None = None,
    is_forced: bool = False,
    listener: Listener = silent,
) -> list[BoardResult]:
    """Build and measure one model on every board.

    Interrupted, it stops the jobs on the boards first. Called again it joins jobs that run, and brings finished ones.

    Args:
        model: The ONNX model.
        boards: Addresses by the name of the folder each gets in `output`.
        output: Folder of the results.
        options: What is asked of each board.
        targets: What a board must be, by its name.
        keys: Trusted host keys and the login's key; the user's own by default.
        patience: How long boards are waited for.
        is_forced: Results of other jobs may be overwritten.
        listener: Told about progress; the stage is the board's name.

    Returns:
        One result a board, in their order; errors are in them, not raised.
    """
    settings = (targets or {}, keys or SshKeys(), patience or Patience())
    work = _Work(model, output, options, *settings, is_forced, listener)
    return asyncio.run(work.on_all(boards))


def check_boards(
    model: OnnxModel,
    boards: Mapping[str, Address],
    options: BoardOptions,
    *,
    targets: Mapping[str, Target] | None = None,
    keys: SshKeys | None = None,
) -> dict[str, BoardFacts]:
    """Ask every board what it is and whether it can build the model; nothing but the program for boards is sent.

    Raises:
        EdgeKDError: The first board that cannot.
    """
    work = _Work(model, Path(), options, targets or {}, keys or SshKeys(), Patience(), False, silent)
    return asyncio.run(work.checked(boards))


def names_of(addresses: Sequence[Address]) -> dict[str, Address]:
    """Give each board the name of its folder: its host, and its port where that is stated.

    Raises:
        ConfigError: A board is there twice.
    """
    named: dict[str, Address] = {}
    for address in addresses:
        port = f"-{address.port}" if address.port else ""
        name = re.sub(r"[^\w.-]", "-", address.host) + port
        if name in named:
            raise ConfigError(f"the board {address.host} is named twice")
        named[name] = address
    return named


@dataclass(frozen=True)
class _Work:
    model: OnnxModel
    output: Path
    options: BoardOptions
    targets: Mapping[str, Target]
    keys: SshKeys
    patience: Patience
    is_forced: bool
    listener: Listener

    async def on_all(self, boards: Mapping[str, Address]) -> list[BoardResult]:
        tasks = [_OneBoard(self, name, address).result() for name, address in boards.items()]
        results = []
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
        return results

    async def checked(self, boards: Mapping[str, Address]) -> dict[str, BoardFacts]:
        ones = [_OneBoard(self, name, address) for name, address in boards.items()]
        found = await asyncio.gather(*(one.checked() for one in ones))
        return {one.name: facts for one, facts in zip(ones, found, strict=True)}


class _OneBoard:
    def __init__(self, work: _Work, name: str, address: Address) -> None:
        self._work, self.name = work, name
        self._address = address
        self._folder = work.output / name
        self._options = dataclasses.replace(work.options, target=work.targets.get(name, work.options.target))
        self._facts: BoardFacts | None = None
        self._board = Board(address, work.keys, work.patience, self._report)

    async def result(self) -> BoardResult:
        started, engine, error = time.monotonic(), None, None
        self._report(Event("start", "", str(self._address)))
        try:
            engine = await self._engine()
        except EdgeKDError as problem:
            error = problem
            self._keep_failure(problem)
        finally:
            self._board.close()
        seconds = time.monotonic() - started
        self._report(
            Event("end", "", "engine built and measured" if engine else "no engine", values={"seconds": seconds})
        )
        warnings = warnings_of(self._facts, self._options) if self._facts else ()
        return BoardResult(
            self.name, str(self._address), self._folder, engine, error, self._facts, warnings, round(seconds, 3)
        )

    async def checked(self) -> BoardFacts:
        try:
            facts = await self._ask()
            self._job(facts)
        finally:
            self._board.close()
        return facts

    async def _engine(self) -> Engine:
        work = self._work
        facts = await self._ask()
        job = self._job(facts)
        if here := finished_here(self._folder, job):
            self._report(Event("note", "", "this engine is here already"))
            return here
        require_place(self._folder, is_forced=work.is_forced)
        state = await done_job(self._board, job, Path(work.model.file.path), work.patience, self._report)
        asked = Asked(job, work.model, facts, self._options)
        if state["status"] != "done":
            error = failure_of(state)
            await fetch_failure(self._board, self._folder, asked, state, error)
            raise error
        engine = await fetch_engine(self._board, self._folder, asked, state)
        if "dla" in engine.facts:
            self._report(Event("note", "", words_of(engine.facts["dla"])))
        return engine

    async def _ask(self) -> BoardFacts:
        await self._board.open()
        facts = facts_from_json(await self._board.call("facts", stdin=CUDA_PROGRAM.encode()))
        self._facts = facts
        self._report(Event("note", "", facts.words))
        for warning in warnings_of(facts, self._options):
            self._report(Event("note", "", f"warning: {warning}"))
        return facts

    def _job(self, facts: BoardFacts) -> BoardJob:
        require_fit(self._work.model, facts, self._options, self._address.host)
        if facts.trtexec is None:
            raise TargetError(f"{self._address.host} has no trtexec")
        return job_for(self._work.model, facts, facts.trtexec, self._options)

    def _keep_failure(self, error: EdgeKDError) -> None:
        """Leave a record where there is nothing yet; a result that is there is never touched."""
        if isinstance(error, ConfigError) or (self._folder.exists() and not (self._folder / FAILURE_NAME).is_file()):
            return
        try:
            write_failure(self._folder, error, self._facts)
        except StorageError as refusal:
            self._report(Event("note", "", str(refusal)))

    def _report(self, event: Event) -> None:
        self._work.listener(dataclasses.replace(event, stage=self.name))
