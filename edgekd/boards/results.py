"""What a board made, brought into a folder of its own: whole or not at all, raw files as they came."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.boards.dla import marked, placement_from_log, require_used
from edgekd.boards.facts import BoardFacts, Trtexec
from edgekd.boards.job import BoardJob
from edgekd.boards.options import BoardOptions
from edgekd.boards.remote import Board
from edgekd.boards.trtexec import LAYERS, LAYERS_OF_RUN, PLAN, PROFILE, TIMES, timing_mode, typing_kind
from edgekd.core.artifacts import Engine, FileRef, OnnxModel
from edgekd.core.atomic import fsync_folder, write_json
from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import BuildError, ConfigError, EdgeKDError, StorageError
from edgekd.engine.backend import model_facts
from edgekd.engine.fusion import require_precision
from edgekd.engine.plan_process import SIDECAR_NAME, write_sidecar
from edgekd.engine.tensorrt.inspector import fusion_from_inspector
from edgekd.profile.document import document_of
from edgekd.profile.importing import BoardFiles, profile_from_board

FAILURE_NAME = "failure.json"
MEASURED_NAME = "measured.json"
_BACKEND = "tensorrt"
State = Mapping[str, Any]


def require_place(folder: Path, *, is_forced: bool) -> None:
    """Refuse a result folder that holds anything but the record of a failed build; raises `ConfigError`."""
    is_failure = (folder / FAILURE_NAME).is_file()
    is_taken = any(folder.iterdir()) and not is_failure if folder.is_dir() else folder.exists()
    if is_taken and not is_forced:
        raise ConfigError(f"{folder} exists: choose another folder with --out, or pass --force to overwrite it")


def finished_here(folder: Path, job: BoardJob) -> Engine | None:
    """Return the engine of exactly this job when it was brought here before and is intact, else None."""
    try:
        document = json.loads((folder / SIDECAR_NAME).read_text(encoding="utf-8"))
        if document["facts"]["job"] != job.digest:
            return None
        file = FileRef(str(folder / PLAN), document["file"]["sha256"], document["file"]["size_bytes"])
        engine = Engine(
            document["backend"],
            document["target"],
            document["precision"],
            file,
            document["facts"],
            tuple(document["parents"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return engine if file.is_intact() else None


@dataclass(frozen=True)
class Asked:
    """What a board was asked to do.

    Attributes:
        job: The job.
        model: What is built.
        facts: The board as found.
        options: How it is built and measured.
    """

    job: BoardJob
    model: OnnxModel
    facts: BoardFacts
    options: BoardOptions


async def fetch_engine(board: Board, folder: Path, asked: Asked, state: State) -> Engine:
    """Bring the results of a finished job here and write `build.json` beside them.

    Args:
        board: The open board.
        folder: Result folder; what is there is replaced.
        asked: What was asked.
        state: The last state of the job.

    Returns:
        The engine, `model.plan` in that folder.

    Raises:
        BuildError: A file arrived damaged, or the layers of the engine do not keep the precision asked for; all but
            the plan is kept then.
        StorageError: The folder cannot be written.
    """
    job, model, facts = asked.job, asked.model, asked.facts
    async with _replacing_folder(folder) as unfinished:
        await board.read(job.digest, [*(("out", name) for name in state["outputs"]), *_logs(state)], unfinished)
        for name, known in state["outputs"].items():
            if sha256_of_file(unfinished / name) != known["sha256"]:
                raise BuildError(
                    f"{name} is not what the board wrote down, damaged there or on its way: delete "
                    f"~/.edgekd/jobs/{job.digest} there, then run the same command again"
                )
        _write_records(unfinished, asked, state)
        _keep_one_list_of_layers(unfinished)
        try:
            fusion, dla = _layers_of(unfinished, asked)
        except BuildError as error:
            (unfinished / PLAN).unlink()
            write_failure(unfinished, error, facts)
            _put(unfinished, folder)
            raise
        engine = Engine(
            _BACKEND,
            f"sm_{facts.sm}",
            model.precision,
            FileRef.of(unfinished / PLAN),
            {
                **_facts(asked, state),
                **_typing(facts.trtexec, asked.options),
                "fusion": fusion,
                **dla,
                "measured": _measured(unfinished, asked),
            },
            (model.digest,),
        )
        write_sidecar(unfinished / SIDECAR_NAME, engine)
    return dataclasses.replace(engine, file=dataclasses.replace(engine.file, path=str(folder / PLAN)))


async def fetch_failure(board: Board, folder: Path, asked: Asked, state: State, error: EdgeKDError) -> None:
    """Bring the logs of a failed job here, with `failure.json`; raises `StorageError`."""
    async with _replacing_folder(folder) as unfinished:
        await board.read(asked.job.digest, _logs(state), unfinished)
        _write_records(unfinished, asked, state)
        write_failure(unfinished, error, asked.facts)


def write_failure(folder: Path, error: EdgeKDError, facts: BoardFacts | None) -> None:
    """Write down why there is no engine in `folder`."""
    document = {
        "schema_version": 1,
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": int(error.exit_code),
        "board": None if facts is None else facts.identity,
    }
    write_json(folder / FAILURE_NAME, document)


def _keep_one_list_of_layers(folder: Path) -> None:
    """Keep the list that the build exported, or that of the profiled run where the build exported none."""
    if (folder / LAYERS).is_file():
        (folder / LAYERS_OF_RUN).unlink(missing_ok=True)
    elif (folder / LAYERS_OF_RUN).is_file():
        os.replace(folder / LAYERS_OF_RUN, folder / LAYERS)


def _logs(state: State) -> list[tuple[str, str]]:
    return [("log", name) for name in state["logs"]]


def _write_records(folder: Path, asked: Asked, state: State) -> None:
    write_json(folder / "facts.json", asked.facts.raw)
    write_json(folder / "job.json", asked.job.document)
    write_json(folder / "state.json", dict(state))


def _layers_of(folder: Path, asked: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the layers of the engine and, under `dla`, which of them run there, if a DLA was asked for."""
    layers, options, precision = folder / LAYERS, asked.options, asked.model.precision
    if not layers.is_file():
        raise BuildError("trtexec exported no layers, so the precision of the engine cannot be confirmed")
    report = fusion_from_inspector(layers.read_text(encoding="utf-8", errors="replace"))
    if options.dla_core is None:
        require_precision(report, precision)
        return report.to_json(), {}
    placement = placement_from_log((folder / "build.log").read_text(encoding="utf-8", errors="replace"))
    require_used(placement)
    report = marked(report, placement)
    require_precision(report, precision)
    how = {"core": options.dla_core, "gpu_fallback": options.gpu_fallback}
    moves = placement.moves([layer.name for layer in report.layers])
    return report.to_json(), {"dla": {**how, **placement.document(), "moves": moves}}


def _measured(folder: Path, asked: Asked) -> str:
    """Write what `edgekd profile` and `edgekd latency fit` read, from the raw files; returns its name, or why not."""
    exports = tuple(folder / name for name in (TIMES, PROFILE, LAYERS) if (folder / name).is_file())
    log = folder / "tegrastats.log"
    files = BoardFiles(exports, log if log.is_file() else None, warmup_ms=float(asked.options.warm_up_ms))
    target, model = asked.options.target, asked.model
    try:
        profile = profile_from_board(
            files,
            model=model.file.path,
            target=target.name if target else asked.facts.model or f"sm_{asked.facts.sm}",
            precision=model.precision,
            batch=model.batch or asked.options.batch,
        )
    except EdgeKDError as error:
        return f"not read: {str(error).replace(f'{folder}/', '')}"
    if asked.options.dla_core is not None:
        conditions = {**profile.report.conditions, "dla_core": asked.options.dla_core}
        profile = dataclasses.replace(profile, report=dataclasses.replace(profile.report, conditions=conditions))
    write_json(folder / MEASURED_NAME, {"schema_version": 1, **document_of(profile)})
    return MEASURED_NAME


def _typing(tool: Trtexec | None, options: BoardOptions) -> dict[str, Any]:
    return {} if tool is None else {"typing": typing_kind(tool, options), "timing_mode": timing_mode(tool)}


def _facts(asked: Asked, state: State) -> dict[str, Any]:
    job, model, facts, options = asked.job, asked.model, asked.facts, asked.options
    steps = state["steps"]
    return {
        "job": job.digest,
        "version": facts.tensorrt,
        "built_by": "tensorrt of its Python" if facts.trtexec and facts.trtexec.is_python else "trtexec",
        "board": facts.identity,
        "jetpack": facts.jetpack,
        **model_facts(model),
        "min_batch": model.batch or options.smallest_batch,
        "opt_batch": model.batch or options.batch,
        "max_batch": model.batch or options.largest_batch,
        "workspace_mb": options.workspace_mb,
        "optimization_level": options.optimization_level,
        "portability": options.portability.document(),
        "build_s": round(steps["build"]["ended_s"] - steps["build"]["started_s"], 3),
        "arguments": {step["name"]: step["argv"] for step in job.document["steps"]},
        "timing_cache": state["outputs"].get("timing.cache"),
        "complaints": {name: step["complaint"] for name, step in steps.items() if step.get("complaint")},
    }


@asynccontextmanager
async def _replacing_folder(folder: Path) -> AsyncIterator[Path]:
    """Yield a folder that takes the place of `folder` when the block ends well, and is removed when it does not."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield unfinished
        if unfinished.is_dir():
            _put(unfinished, folder)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put(unfinished: Path, folder: Path) -> None:
    os.chmod(unfinished, 0o755)  # noqa: S103 - mkdtemp's 0o700 would lock others out
    old = unfinished.with_suffix(".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(unfinished, folder)
    fsync_folder(folder.parent)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
