"""The stage that packs what a device needs: the model, how to build it, and how to tell that it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.core.artifacts import Bundle, Precision, TrainedModel, from_json, to_json
from edgekd.export import run_onnx
from edgekd.pipeline.context import TOKENIZER_FILE, RunContext
from edgekd.pipeline.exporting import PrecisionChoice
from edgekd.pipeline.timing import spread_inputs
from edgekd.ship import (
    MAX_GOLDEN_BYTES,
    BundlePlan,
    Golden,
    build_plan,
    health_check,
    pack,
    provenance,
    target_selector,
    usual_tolerance,
)

_GOLDEN_INPUTS = 8


def bundle_of(context: RunContext, student: TrainedModel, choice: PrecisionChoice) -> Bundle:
    """Pack the chosen model with golden inputs, build plan, health check and provenance."""
    model = choice.chosen
    role = f"model-{model.precision}"
    inputs = {
        "model": model.digest,
        "student": student.digest,
        "target": context.target.digest,
        "budget": str(context.budget) if context.budget else None,
        "recipe": context.recipe.digest,
        "data": context.dataset.digest,
    }

    def work() -> dict[str, Any]:
        metric = context.dataset.task.metric.key
        inputs, _ = spread_inputs(context.dataset.val, context.affordable(_GOLDEN_INPUTS, MAX_GOLDEN_BYTES))
        reference = model if choice.variant.startswith("QAT") else choice.models["fp32"]  # it was trained since
        outputs = run_onnx(Path(reference.file.path).read_bytes(), inputs, batch=len(inputs), as_written=True)
        plan = BundlePlan(
            created=context.ledger.created,
            targets=(target_selector(context.target),),
            build=build_plan(model, context.target, role=role),
            health=_health(context, model.precision, float(abs(outputs).max())),
            provenance=provenance(
                recipe_sha256=context.recipe.digest,
                data_sha256=context.dataset.digest,
                parents=(student.digest, model.digest),
                metrics={f"{metric}_{split}": value for split, value in student.scores.items()},
            ),
        )
        folder = context.folder / "bundle"
        files = {role: Path(model.file.path)}
        if context.dataset.tokenizer is not None:
            files["tokenizer"] = context.folder / TOKENIZER_FILE
        bundle = pack(folder, name=_name(context), version=1, files=files, golden=Golden(inputs, outputs), plan=plan)
        return to_json(bundle)

    return from_json(Bundle, context.ledger.stage("bundle", inputs, work))


def _name(context: RunContext) -> str:
    return f"{context.dataset.name}-{context.recipe.name.replace('+', '-')}"


def _health(context: RunContext, precision: Precision, scale: float) -> Any:
    return health_check(tolerance=usual_tolerance(precision, scale), budget=context.budget)
