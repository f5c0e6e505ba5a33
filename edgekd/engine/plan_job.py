"""One plan to build, as it crosses into the build process and back: an argument list in, a JSON report out.

A builder keeps state after a failure and can take the whole process down with it, so every build has its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgekd.core.artifacts import OnnxModel, Precision
from edgekd.engine.backend import BuildOptions
from edgekd.engine.portability import LEVELS, TIED, Portability

BUILT, REFUSED = "built", "refused"


@dataclass(frozen=True)
class PlanJob:
    """What a build process needs to know.

    Attributes:
        onnx: ONNX model to read.
        plan: File to write the plan to.
        report: File to write the JSON report to.
        precision: Precision the plan must have.
        input_name: Name of the one input.
        input_shape: `(C, H, W)` of a picture, or `(L,)` of a text.
        batches: Smallest, optimal and largest batch; empty for a model of fixed batch.
        compute_capability: Name in the builder's enum (`"SM86"`); empty means the GPU at hand.
        workspace_mb: Limit of scratch memory in MiB; 0 leaves the builder's own.
        timing_cache: File of kernel timings; None for none.
        optimization_level: 0 to 5; None leaves the builder's own.
        portability: Where else the plan may run.
    """

    onnx: Path
    plan: Path
    report: Path
    precision: Precision
    input_name: str
    input_shape: tuple[int, ...]
    batches: tuple[int, ...] = ()
    compute_capability: str = ""
    workspace_mb: int = 0
    timing_cache: Path | None = None
    optimization_level: int | None = None
    portability: Portability = TIED

    def arguments(self) -> list[str]:
        """Return the argument list that `job_from_arguments` reads."""
        pairs = {
            "--onnx": str(self.onnx),
            "--plan": str(self.plan),
            "--report": str(self.report),
            "--precision": self.precision,
            "--input-name": self.input_name,
            "--input-shape": ",".join(map(str, self.input_shape)),
            "--batches": ",".join(map(str, self.batches)),
            "--compute-capability": self.compute_capability,
            "--workspace-mb": str(self.workspace_mb),
            "--timing-cache": "" if self.timing_cache is None else str(self.timing_cache),
            "--optimization-level": "" if self.optimization_level is None else str(self.optimization_level),
            "--version-compatible": "1" if self.portability.version else "",
            "--hardware": self.portability.hardware,
        }
        return [f"{name}={value}" for name, value in pairs.items()]


def job_for(model: OnnxModel, options: BuildOptions, *, plan: Path, report: Path, compute_capability: str) -> PlanJob:
    """Describe the build of `model`; paths become absolute."""
    return PlanJob(
        onnx=Path(model.file.path).resolve(),
        plan=plan.resolve(),
        report=report.resolve(),
        precision=model.precision,
        input_name=model.input_name,
        input_shape=model.input_shape,
        batches=() if model.batch else (1, options.batch, options.largest_batch),
        compute_capability=compute_capability,
        workspace_mb=options.workspace_mb,
        timing_cache=None if options.timing_cache is None else options.timing_cache.resolve(),
        optimization_level=options.optimization_level,
        portability=options.portability,
    )


def job_from_arguments(arguments: Sequence[str]) -> PlanJob:
    """Read the argument list of `PlanJob.arguments`; exits with code 2 and a usage line when it is another one."""
    parser = argparse.ArgumentParser(description="Build one engine; started by edgekd in a process of its own.")
    for name in ("onnx", "plan", "report"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8", "bf16", "fp8"), required=True)
    parser.add_argument("--input-name", required=True)
    parser.add_argument("--input-shape", type=_integers, required=True)
    parser.add_argument("--batches", type=_integers, default=())
    parser.add_argument("--compute-capability", default="")
    parser.add_argument("--workspace-mb", type=int, default=0)
    parser.add_argument("--timing-cache", default="")
    parser.add_argument("--optimization-level", type=_integers, default=())
    parser.add_argument("--version-compatible", default="")
    parser.add_argument("--hardware", choices=("none", *LEVELS), default="none")
    given = parser.parse_args(arguments)
    if len(given.input_shape) not in (1, 3) or len(given.batches) not in (0, 3):
        parser.error("--input-shape takes one or three numbers, --batches three")
    return PlanJob(
        onnx=given.onnx,
        plan=given.plan,
        report=given.report,
        precision=cast("Precision", given.precision),
        input_name=given.input_name,
        input_shape=given.input_shape,
        batches=given.batches,
        compute_capability=given.compute_capability,
        workspace_mb=given.workspace_mb,
        timing_cache=Path(given.timing_cache) if given.timing_cache else None,
        optimization_level=given.optimization_level[0] if given.optimization_level else None,
        portability=Portability(bool(given.version_compatible), given.hardware),
    )


def progress_line(phase: str, done: int, total: int) -> str:
    """Return one line of the build process's standard output."""
    return json.dumps({"phase": phase, "done": done, "total": total})


def progress_from_line(line: str) -> tuple[str, int, int] | None:
    """Read a line of `progress_line`; None for anything else a library prints."""
    try:
        document: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(document, dict) or set(document) != {"phase", "done", "total"}:
        return None
    return str(document["phase"]), int(document["done"]), int(document["total"])


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)
