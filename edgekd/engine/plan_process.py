"""Starts a build process, relays its progress, stops it when it takes too long, and keeps its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import edgekd
from edgekd.core.artifacts import Engine, FileRef, OnnxModel
from edgekd.core.atomic import replacing, write_json
from edgekd.core.errors import BuildError
from edgekd.core.events import Event, Listener
from edgekd.engine.backend import BuildOptions, model_facts
from edgekd.engine.fusion import report_from_json, require_precision
from edgekd.engine.plan_job import REFUSED, PlanJob, job_for, progress_from_line

PLAN_NAME, SIDECAR_NAME, LOG_NAME = "model.engine", "build.json", "build.log"
_LOG_TAIL_LINES = 12


@dataclass(frozen=True)
class ChildResult:
    """How a child process ended.

    Attributes:
        returncode: Its exit status; negative for a signal.
        is_timed_out: It was stopped for taking too long.
    """

    returncode: int
    is_timed_out: bool


@dataclass(frozen=True)
class PlanBuilder:
    """A build process of one backend.

    Attributes:
        backend: Registered name.
        module: Module run in the process (`python -m ...`).
        target: What the engine's target is called (`"sm_86"`).
        compute_capability: Passed on to the job.
    """

    backend: str
    module: str
    target: str
    compute_capability: str = ""

    def build(self, model: OnnxModel, folder: Path, options: BuildOptions) -> Engine:
        """Build `model` into `folder`: `model.engine`, `build.json`, `build.log`.

        Raises:
            BuildError: The builder refused, crashed, took too long, or made another precision than asked for. No plan
                is left then, its log is.
        """
        plan_path = folder / PLAN_NAME
        with replacing(plan_path) as unfinished, tempfile.TemporaryDirectory(prefix="edgekd-build-") as scratch:
            report_path = Path(scratch) / "report.json"
            job = job_for(
                model, options, plan=unfinished, report=report_path, compute_capability=self.compute_capability
            )
            report = self._run(job, folder / LOG_NAME, options)
            require_precision(report_from_json(report["fusion"]), model.precision)
        file = FileRef.of(plan_path)
        facts = {**_common_facts(model, options, job), **report, "backend": self.backend}
        engine = Engine(self.backend, self.target, model.precision, file, facts, (model.digest,))
        write_sidecar(folder / SIDECAR_NAME, engine)
        return engine

    def _run(self, job: PlanJob, log: Path, options: BuildOptions) -> dict[str, Any]:
        stage = f"build/{self.backend}"
        options.listener(Event("start", stage, f"building a {job.precision} engine for {self.target}"))
        arguments = [sys.executable, "-m", self.module, *job.arguments()]
        started = time.monotonic()
        with replacing(log) as unfinished:
            result = run_child(
                arguments, log=unfinished, timeout_s=options.timeout_s, on_line=_relay(stage, options.listener)
            )
        seconds = time.monotonic() - started
        report = _finished_report(job.report, result, log, options.timeout_s)
        options.listener(Event("end", stage, "engine built", values={"seconds": seconds}))
        return {**report, "process_s": round(seconds, 3)}


def run_child(arguments: Sequence[str], *, log: Path, timeout_s: float, on_line: Callable[[str], None]) -> ChildResult:
    """Run a process to its end; it never outlives this call.

    Args:
        arguments: Program and arguments.
        log: File that receives its standard error.
        timeout_s: Seconds after which it is killed.
        on_line: Called with every line of its standard output, in the calling thread.

    Returns:
        How it ended.
    """
    is_timed_out = threading.Event()
    with open(log, "wb") as errors:
        child = subprocess.Popen(
            list(arguments), stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env=_environment()
        )

    def stop() -> None:
        is_timed_out.set()
        child.kill()

    timer = threading.Timer(timeout_s, stop)
    timer.start()
    try:
        if child.stdout is not None:
            for line in child.stdout:
                on_line(line.decode(errors="replace").rstrip("\n"))
        child.wait()
    finally:
        timer.cancel()
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    return ChildResult(child.returncode, is_timed_out.is_set() and child.returncode < 0)


def write_sidecar(path: Path, engine: Engine) -> None:
    """Write what is known about an engine beside it; the engine file itself is never touched."""
    named = replace(engine, file=replace(engine.file, path=Path(engine.file.path).name))
    document = {
        "schema_version": 1,
        "digest": engine.digest,
        "backend": named.backend,
        "target": named.target,
        "precision": named.precision,
        "file": {"name": named.file.path, "sha256": named.file.sha256, "size_bytes": named.file.size_bytes},
        "parents": list(named.parents),
        "facts": dict(engine.facts),
    }
    write_json(path, document)


def _finished_report(path: Path, result: ChildResult, log: Path, timeout_s: float) -> dict[str, Any]:
    if result.is_timed_out:
        raise BuildError(f"the build took longer than {timeout_s:g} s and was stopped; allow more, or see {log}")
    if not path.is_file():
        how = f"exit status {result.returncode}"
        if result.returncode < 0:
            how = f"signal {signal.Signals(-result.returncode).name}"
        raise BuildError(f"the build process died ({how}); the end of its log {log}:\n{_tail(log)}")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if report.pop("status") == REFUSED:
        raise BuildError("the builder refused the model:\n" + "\n".join(f"  {line}" for line in report["errors"]))
    return report


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:]) or "(empty)"


def _relay(stage: str, listener: Listener) -> Callable[[str], None]:
    def relay(line: str) -> None:
        progress = progress_from_line(line)
        if progress is None:
            listener(Event("note", stage, line))
        else:
            listener(Event("progress", stage, progress[0], progress[1], progress[2]))

    return relay


def _common_facts(model: OnnxModel, options: BuildOptions, job: PlanJob) -> dict[str, Any]:
    return {
        **model_facts(model),
        "min_batch": job.batches[0] if job.batches else model.batch,
        "opt_batch": job.batches[1] if job.batches else model.batch,
        "max_batch": job.batches[2] if job.batches else model.batch,
        "workspace_mb": options.workspace_mb,
        "optimization_level": options.optimization_level,
        "portability": options.portability.document(),
    }


def _environment() -> dict[str, str]:
    root = str(Path(edgekd.__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not inherited else os.pathsep.join([root, inherited])}
