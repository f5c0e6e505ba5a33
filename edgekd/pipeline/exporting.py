"""The stages that turn the student into ONNX: export with proof, lower precisions, and the choice among them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekd.core.artifacts import OnnxModel, TrainedModel, from_json, to_json
from edgekd.data import Split
from edgekd.export import (
    ParityReport,
    export_onnx,
    parity,
    require_parity,
    run_onnx,
    task_parity,
)
from edgekd.models import deploy, load_model
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.lowering import VARIANTS, flavour_of, lowered
from edgekd.pipeline.qat import Tuned
from edgekd.pipeline.scoring import score_here
from edgekd.pipeline.timing import cpu_folder, latency_on_target, spread_inputs, timed_precisions
from edgekd.precision import Candidate, Verdict, choose_precision
from edgekd.targets import Target

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
        models: Every model that could be made, by role (`"fp32"`, `"fp16"`, `"int8"`, `"int8-cpu"`, and the roles of
            `VARIANTS`).
        verdicts: One for each candidate, as plain data with score and latency where known.
        variant: How the chosen one was made, where its precision is there in several ways.
        layers: The choice layer by layer as plain data, where it was asked for.
    """

    chosen: OnnxModel
    models: dict[str, OnnxModel]
    verdicts: tuple[dict[str, Any], ...]
    variant: str = ""
    layers: dict[str, Any] | None = None


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


def precisions(context: RunContext, fp32: OnnxModel, tuned: Tuned | None = None) -> PrecisionChoice:
    """Make the lower precisions, judge each on the held-out split and by latency, and choose one for the target.

    Args:
        context: The run.
        fp32: The student.
        tuned: It fine-tuned in fake int8, or None.
    """
    config = context.config
    inputs = {
        "model": fp32.digest,
        "tuned": tuned.int8.digest if tuned else None,
        "data": context.dataset.digest,
        "calibration_size": config.calibration_size,
        "max_drop": config.max_drop,
        "precision": config.precision.model_dump(mode="json"),
        "target": context.target.digest,
        "threads": config.threads,
    }

    def work() -> dict[str, Any]:
        found = lowered(context, fp32, tuned)
        models = found.models
        roles = [role for role, model in models.items() if suits(model, context.target)]
        rows = {role: _candidate(context, models[role], VARIANTS.get(role, "")) for role in roles}
        decision = choose_precision(list(rows.values()), max_drop=config.max_drop, metric=context.dataset.task.metric)
        verdicts = [
            {**dataclasses.asdict(verdict), "score": row.score, "p50_ms": row.p50_ms, "ms_kind": row.ms_kind}
            for verdict, row in zip(decision.verdicts, rows.values(), strict=True)
        ]
        verdicts += [
            dataclasses.asdict(verdict) | _UNKNOWN for verdict in found.refused if _is_wanted(verdict, context.target)
        ]
        chosen = next(role for role, row in rows.items() if row is decision.chosen)
        documents = {role: to_json(model) for role, model in models.items()}
        return {"chosen": chosen, "models": documents, "verdicts": verdicts, "layers": found.layers}

    result = context.ledger.stage("precision", inputs, work)
    models = {role: from_json(OnnxModel, document) for role, document in result["models"].items()}
    variant = VARIANTS.get(result["chosen"], "")
    return PrecisionChoice(models[result["chosen"]], models, tuple(result["verdicts"]), variant, result["layers"])


def score_through(context: RunContext, model: OnnxModel, split: Split) -> float:
    """Return the score of an ONNX model on a split, on this CPU (see `score_here`)."""
    return score_here(model, split, cpu_folder(context, model), threads=context.config.threads)


def _is_wanted(verdict: Verdict, target: Target) -> bool:
    return verdict.flavour in ("any", flavour_of(target))


def suits(model: OnnxModel, target: Target) -> bool:
    """Say whether a model is one to run on a target: the right flavour, in a precision that can be timed there."""
    return model.flavour in ("any", flavour_of(target)) and model.precision in timed_precisions(target)


def _candidate(context: RunContext, model: OnnxModel, variant: str) -> Candidate:
    score = score_through(context, model, context.dataset.val)
    report = latency_on_target(context, model)
    return Candidate(model, score, report.p50_ms, report.kind, variant)


def _require_task_parity(context: RunContext, module: nn.Module, model: OnnxModel) -> None:
    inputs, labels = spread_inputs(context.dataset.val, context.affordable(_TASK_INPUTS, _OUTPUT_BYTES))
    with torch.no_grad():
        parts = [module.eval()(part) for part in torch.split(torch.from_numpy(inputs), _TASK_BATCH)]
    expected = torch.cat(parts).numpy()
    found = run_onnx(Path(model.file.path).read_bytes(), inputs, batch=_TASK_BATCH)
    require_parity(task_parity(expected, found, labels, context.dataset.task))
