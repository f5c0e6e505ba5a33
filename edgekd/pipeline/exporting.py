"""The stages that turn the student into ONNX: export with proof, lower precisions, and the choice among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.core.artifacts import Flavour, OnnxModel, Precision, TrainedModel, from_json, to_json
from edgekd.core.errors import ExportError
from edgekd.data import Split, eval_batches
from edgekd.engine import BACKENDS, BuildOptions, score_of
from edgekd.export import (
    ParityReport,
    export_onnx,
    fp16_rounded,
    parity,
    read_proto,
    require_parity,
    run_onnx,
    task_parity,
)
from edgekd.models import deploy, load_model
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.timing import cpu_folder, latency_on_target, spread_inputs, timed_precisions
from edgekd.precision import Candidate, Verdict, choose_precision, drawn_calibration, to_fp16, to_int8
from edgekd.targets import Target, get_target

_PARITY_INPUTS = 128
_TASK_INPUTS = 1024
_TASK_BATCH = 32
_OUTPUT_BYTES = 1 << 27
_UNKNOWN = {"score": None, "p50_ms": None, "ms_kind": None}


@dataclass(frozen=True)
class Exported:
    """The student as ONNX in float32, and the proof that it is the same network."""

    model: OnnxModel
    parity: ParityReport


@dataclass(frozen=True)
class PrecisionChoice:
    """What the run ships.

    Attributes:
        chosen: The model for the target.
        models: Every model that could be made, by role (`"fp32"`, `"fp16"`, `"int8"`, `"int8-cpu"`).
        verdicts: One for each candidate, as plain data with score and latency where known.
    """

    chosen: OnnxModel
    models: dict[str, OnnxModel]
    verdicts: tuple[dict[str, Any], ...]


def exported(context: RunContext, student: TrainedModel) -> Exported:
    """Export the student and require that torch and ONNX Runtime agree on real and random inputs, and on the task.

    Raises:
        ExportError: The network cannot be exported.
        ParityError: The two sides disagree.
    """
    inputs = {"student": student.digest, "opset": context.target.max_opset, "data": context.dataset.digest}

    def work() -> dict[str, Any]:
        module = deploy(load_model(student))
        model = export_onnx(
            module,
            context.folder / "onnx" / "student.fp32.onnx",
            input_shape=student.spec.input_shape,
            opset=context.target.max_opset,
            parents=(student.digest,),
        )
        inputs, _ = spread_inputs(context.dataset.val, context.affordable(_PARITY_INPUTS, _OUTPUT_BYTES))
        report = parity(module, model, inputs, task=context.dataset.task)
        require_parity(report)
        _require_task_parity(context, module, model)
        return {"model": to_json(model), "parity": dataclasses.asdict(report)}

    result = context.ledger.stage("export", inputs, work)
    report = ParityReport(**{**result["parity"], "batches": tuple(result["parity"]["batches"])})
    return Exported(from_json(OnnxModel, result["model"]), report)


def precisions(context: RunContext, fp32: OnnxModel) -> PrecisionChoice:
    """Make the lower precisions, judge each on the held-out split and by latency, and choose one for the target."""
    config = context.config
    inputs = {
        "model": fp32.digest,
        "data": context.dataset.digest,
        "calibration_size": config.calibration_size,
        "max_drop": config.max_drop,
        "precision": config.precision.model_dump(mode="json"),
        "target": context.target.digest,
        "threads": config.threads,
    }

    def work() -> dict[str, Any]:
        models, refused = _lowered(context, fp32)
        roles = [role for role, model in models.items() if suits(model, context.target)]
        rows = {role: _candidate(context, models[role]) for role in roles}
        decision = choose_precision(list(rows.values()), max_drop=config.max_drop, metric=context.dataset.task.metric)
        verdicts = [
            {**dataclasses.asdict(verdict), "score": row.score, "p50_ms": row.p50_ms, "ms_kind": row.ms_kind}
            for verdict, row in zip(decision.verdicts, rows.values(), strict=True)
        ]
        verdicts += [
            dataclasses.asdict(verdict) | _UNKNOWN for verdict in refused if _is_wanted(verdict, context.target)
        ]
        chosen = next(role for role, row in rows.items() if row is decision.chosen)
        documents = {role: to_json(model) for role, model in models.items()}
        return {"chosen": chosen, "models": documents, "verdicts": verdicts}

    result = context.ledger.stage("precision", inputs, work)
    models = {role: from_json(OnnxModel, document) for role, document in result["models"].items()}
    return PrecisionChoice(models[result["chosen"]], models, tuple(result["verdicts"]))


def score_through(context: RunContext, model: OnnxModel, split: Split) -> float:
    """Return the score of an ONNX model on a split, on this CPU.

    ONNX Runtime's CPU kernels compute fp16 graphs in float32, so those are run with every tensor rounded to fp16.
    """
    batches = ((batch.inputs.numpy(), batch.labels.numpy()) for batch in eval_batches(split))
    if model.precision == "fp16":
        content = fp16_rounded(read_proto(model)).SerializeToString()
        return split.task.metric.over(
            (run_onnx(content, inputs, batch=len(inputs)), labels) for inputs, labels in batches
        )
    backend = BACKENDS["onnxruntime"]
    options = BuildOptions(get_target("cpu"), threads=context.config.threads)
    with backend.open(backend.build(model, cpu_folder(context, model), options)) as runner:
        return score_of(runner, batches, split.task)


def _lowered(context: RunContext, fp32: OnnxModel) -> tuple[dict[str, OnnxModel], list[Verdict]]:
    config, folder = context.config, context.folder / "onnx"
    calibration = drawn_calibration(context.dataset, size=config.calibration_size, seed=config.data.seed)
    int8 = partial(to_int8, fp32, calibration=calibration, calibrator=config.precision.calibrator)
    conversions: dict[str, tuple[Precision, Flavour, Callable[[], OnnxModel]]] = {
        "fp16": ("fp16", "any", partial(to_fp16, fp32, folder / "student.fp16.onnx", inputs=calibration)),
        "int8": ("int8", "tensorrt", partial(int8, folder / "student.int8.onnx", flavour="tensorrt")),
        "int8-cpu": ("int8", "cpu", partial(int8, folder / "student.int8-cpu.onnx", flavour="cpu")),
    }
    models, refused = {"fp32": fp32}, []
    for role, (precision, flavour, convert) in conversions.items():
        try:
            models[role] = convert()
        except ExportError as error:
            refused.append(Verdict(precision, flavour, accepted=False, reason=f"{precision}: {error}"))
    return models, refused


def _is_wanted(verdict: Verdict, target: Target) -> bool:
    return verdict.flavour != _other_flavour(target)


def _other_flavour(target: Target) -> Flavour:
    return "tensorrt" if target.kind == "cpu" else "cpu"


def suits(model: OnnxModel, target: Target) -> bool:
    """Say whether a model is one to run on a target: the right flavour, in a precision that can be timed there."""
    return model.flavour != _other_flavour(target) and model.precision in timed_precisions(target)


def _candidate(context: RunContext, model: OnnxModel) -> Candidate:
    score = score_through(context, model, context.dataset.val)
    report = latency_on_target(context, model)
    return Candidate(model, score, report.p50_ms, report.kind)


def _require_task_parity(context: RunContext, module: nn.Module, model: OnnxModel) -> None:
    inputs, labels = spread_inputs(context.dataset.val, context.affordable(_TASK_INPUTS, _OUTPUT_BYTES))
    with torch.no_grad():
        parts = [module.eval()(part) for part in torch.split(torch.from_numpy(inputs), _TASK_BATCH)]
    expected = torch.cat(parts).numpy()
    found = run_onnx(Path(model.file.path).read_bytes(), inputs, batch=_TASK_BATCH)
    require_parity(task_parity(expected, found, labels, context.dataset.task))
