"""In the child: makes an engine of a model, or finds out why it cannot be made."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd_agent.engine.running import PLAN, Refused

TIMING = "timing.cache"


def build(job: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Build an engine.

    Args:
        job: `backend`, `model` (path), `plan` (the build section of the manifest), `timing` (path or None).
        folder: Where the plan and the timing cache go.

    Returns:
        What is written down of it: `versions`, `options`, `peak_memory_bytes`.

    Raises:
        Refused: The model was not taken.
    """
    model = Path(job["model"])
    if job["backend"] == "tensorrt":
        facts = _with_tensorrt(model, job, folder)
    else:
        facts = _with_onnxruntime(model, job["plan"])
    return {**facts, "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def _with_tensorrt(model: Path, job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from edgekd_agent.engine import tensorrt_engine

    timing = Path(job["timing"]).read_bytes() if job.get("timing") else b""
    tensorrt_engine.build(model, job["plan"], out=folder / PLAN, timing=timing, timing_out=folder / TIMING)
    return {"versions": {"tensorrt": tensorrt_engine.version()}, "options": {}}


def _with_onnxruntime(model: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    from edgekd_agent.engine import onnxruntime_engine

    options = {"intra_op_num_threads": len(os.sched_getaffinity(0))}
    engine = onnxruntime_engine.load(model, options)
    wanted = plan["opt_profile"]["input_name"]
    if engine.input_name != wanted:
        raise Refused("build", f"the model's input is {engine.input_name}, the plan says {wanted}")
    return {"versions": {"onnxruntime": onnxruntime_engine.version()}, "options": options}
