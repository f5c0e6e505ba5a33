"""The build process of TensorRT: `python -m edgekd.engine.tensorrt.build --onnx=... --plan=...`.

Not run on hardware yet. Progress goes to standard output as JSON lines, the verbose log to standard error.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.core.atomic import write_bytes
from edgekd.core.errors import BuildError
from edgekd.engine.fusion import FusionReport
from edgekd.engine.plan_job import PlanJob
from edgekd.engine.plan_network import (
    BuilderLog,
    BuildRefused,
    Progress,
    make_config,
    make_logger,
    make_portable,
    network_facts,
    parse_network,
    serialized_plan,
)
from edgekd.engine.plan_process_child import run_build_process
from edgekd.engine.portability import Portability
from edgekd.engine.tensorrt.features import typing_of
from edgekd.engine.tensorrt.inspector import fusion_from_inspector


def build_plan(trt: ModuleType, job: PlanJob, log: BuilderLog, progress: Progress) -> tuple[bytes, dict[str, Any]]:
    """Build one plan on the GPU at hand and read its layers back.

    Args:
        trt: The `tensorrt` module, 8.5 to 11.x.
        job: What to build.
        log: Filled with what the builder says.
        progress: Called with phase, steps done, steps in all.

    Returns:
        The plan and plain facts about it.

    Raises:
        BuildRefused: The parser or the builder said no.
        BuildError: The plan cannot be read back.
    """
    started = time.monotonic()
    logger = make_logger(trt, log, lambda line: print(line, file=sys.stderr))  # noqa: T201 - this is its log
    builder = trt.Builder(logger)
    typing = typing_of(trt, job.precision)
    network, parser = parse_network(trt, builder, logger, job, typing.network_flags)
    config = make_config(trt, builder, job, progress)
    for flag in typing.builder_flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    make_portable(trt, config, job.portability)
    cache = _attach_timing_cache(config, job.timing_cache)
    plan = serialized_plan(builder, network, config, log)
    facts = {
        "version": str(trt.__version__),
        "typing": typing.kind,
        "builder_flags": list(typing.builder_flags),
        "has_tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        **network_facts(network),
        "build_s": round(time.monotonic() - started, 3),
        "timing_cache": _keep_timing_cache(cache, job.timing_cache),
        "fusion": _read_back(trt, logger, plan, log, job.portability).to_json(),
        "warnings": log.warnings(),
    }
    del parser, network
    return plan, facts


def _attach_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise BuildRefused([f"timing cache {path} is of another GPU or TensorRT; delete it or name another one"])
    return cache


def _keep_timing_cache(cache: Any, path: Path | None) -> dict[str, Any] | None:
    if cache is None or path is None:
        return None
    content = bytes(cache.serialize())
    write_bytes(path, content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def _read_back(trt: ModuleType, logger: Any, plan: bytes, log: BuilderLog, portability: Portability) -> FusionReport:
    runtime = trt.Runtime(logger)
    if portability.version:
        runtime.engine_host_code_allowed = True  # it carries a runtime of its own
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError("the plan just built cannot be loaded: " + ("; ".join(log.errors()) or "no reason given"))
    inspector = engine.create_engine_inspector()
    return fusion_from_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    sys.exit(run_build_process("tensorrt", build_plan, sys.argv[1:]))
