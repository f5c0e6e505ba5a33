"""The build process of TensorRT-RTX: `python -m edgekd.engine.tensorrt_rtx.build --onnx=... --plan=...`.

One engine, one process: after a failed build a process gives odd errors, and a second build in one process has other
bytes than the first. Progress goes to standard output as JSON lines, the verbose log to standard error.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any

from edgekd.engine.plan_job import PlanJob
from edgekd.engine.plan_network import (
    BuilderLog,
    BuildRefused,
    Progress,
    make_config,
    make_logger,
    network_facts,
    parse_network,
    serialized_plan,
)
from edgekd.engine.plan_process_child import run_build_process
from edgekd.engine.tensorrt_rtx.builder_log import fusion_from_log, io_tensors_from_log


def build_plan(trt: ModuleType, job: PlanJob, log: BuilderLog, progress: Progress) -> tuple[bytes, dict[str, Any]]:
    """Build one plan for one compute capability, without a GPU.

    Args:
        trt: The `tensorrt_rtx` module.
        job: What to build.
        log: Filled with what the builder says.
        progress: Called with phase, steps done, steps in all.

    Returns:
        The plan and plain facts about it.

    Raises:
        BuildRefused: The parser or the builder said no.
        BuildError: The log of a successful build is not understood.
    """
    started = time.monotonic()
    logger = make_logger(trt, log, lambda line: print(line, file=sys.stderr))  # noqa: T201 - this is its log
    builder = trt.Builder(logger)
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network, parser = parse_network(trt, builder, logger, job, strong)
    config = make_config(trt, builder, job, progress)
    _set_compute_capability(trt, config, job.compute_capability)
    plan = serialized_plan(builder, network, config, log)
    texts = [text for _, text in log.messages]
    facts = {
        "version": str(trt.__version__),
        "compute_capability": job.compute_capability,
        "typing": "strong",
        "has_tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        **network_facts(network),
        "build_s": round(time.monotonic() - started, 3),
        "io_tensors": io_tensors_from_log(texts),
        "fusion": fusion_from_log(texts).to_json(),
        "warnings": log.warnings(),
    }
    del parser, network
    return plan, facts


def _set_compute_capability(trt: ModuleType, config: Any, name: str) -> None:
    capability = getattr(trt.ComputeCapability, name, None)
    if capability is None:
        raise BuildRefused([f"this TensorRT-RTX ({trt.__version__}) knows no compute capability {name}"])
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(capability, 0):
        raise BuildRefused([f"TensorRT-RTX refused the compute capability {name}"])


if __name__ == "__main__":
    sys.exit(run_build_process("tensorrt_rtx", build_plan, sys.argv[1:]))
