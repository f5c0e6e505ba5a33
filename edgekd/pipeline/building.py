"""The stages that build engines here, and time what can be timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.core.artifacts import Engine, LatencyReport, OnnxModel, from_json, to_json
from edgekd.core.errors import BuildError, PreconditionError, TargetError
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.exporting import PrecisionChoice, suits
from edgekd.pipeline.lowering import VARIANTS
from edgekd.pipeline.timing import latency_on_target, measured_on_cpu
from edgekd.targets import Target, get_target


def engines(context: RunContext, choice: PrecisionChoice) -> tuple[tuple[Engine, ...], tuple[str, ...]]:
    """Build every engine that can be built on this machine.

    Args:
        context: The run.
        choice: The models.

    Returns:
        The engines, and a note for each one that was wanted and could not be built.
    """
    wanted = dict.fromkeys([context.config.target, *context.config.also_build])
    built: list[Engine] = []
    notes: list[str] = []
    for name in wanted:
        target = get_target(name)
        try:
            built.append(_engine(context, _backend_for(target), target, _model_for(target, choice)))
        except (PreconditionError, TargetError) as error:
            notes.append(f"no engine was built for {name}: {error}; the bundle holds the ONNX and the build plan")
        except BuildError as error:
            if name == context.config.target:
                raise
            notes.append(f"no engine was built for {name}: {error}")
    return tuple(built), tuple(notes)


def latencies(context: RunContext, choice: PrecisionChoice) -> tuple[LatencyReport, ...]:
    """Time the models: on the target those that suit it, and on this CPU those that suit a CPU.

    Returns:
        The chosen model on the target first, then the rest.
    """
    plain = [model for role, model in choice.models.items() if role not in VARIANTS]
    others = [model for model in plain if model.digest != choice.chosen.digest]
    on_target = [choice.chosen, *(model for model in others if suits(model, context.target))]
    inputs = {
        "models": [model.digest for model in on_target],
        "target": context.target.digest,
        "threads": context.config.threads,
        "data": context.dataset.digest,
    }

    def work() -> dict[str, Any]:
        reports = [latency_on_target(context, model) for model in on_target]
        if context.target.kind != "cpu":
            for_cpu = [choice.models[role] for role in ("fp32", "int8-cpu") if role in choice.models]
            reports += [measured_on_cpu(context, model) for model in for_cpu]
        return {"reports": [to_json(report) for report in reports]}

    result = context.ledger.stage("latency", inputs, work)
    return tuple(from_json(LatencyReport, document) for document in result["reports"])


def _engine(context: RunContext, backend: str, target: Target, model: OnnxModel) -> Engine:
    inputs = {
        "model": model.digest,
        "target": target.digest,
        "backend": backend,
        "threads": context.config.threads,
    }
    folder = context.folder / "engines" / f"{target.name}-{Path(model.file.path).stem}"
    options = BuildOptions(target, threads=context.config.threads, listener=context.listener)
    return context.noun(Engine, f"build/{target.name}", inputs, lambda: BACKENDS[backend].build(model, folder, options))


def _backend_for(target: Target) -> str:
    if target.kind == "cpu":
        return "onnxruntime"
    if BACKENDS["tensorrt"].available() is None:
        return "tensorrt"
    if target.kind == "jetson":
        raise TargetError("TensorRT builds on the device it builds for")
    return "tensorrt_rtx"


def _model_for(target: Target, choice: PrecisionChoice) -> OnnxModel:
    if (target.kind == "cpu") == (choice.chosen.flavour == "cpu") or choice.chosen.flavour == "any":
        return choice.chosen
    return choice.models.get("fp16", choice.models["fp32"])
