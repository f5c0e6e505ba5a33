"""The stage that goes on with the distillation in fake int8: quantisation-aware training under the teacher."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from edgekd.core.artifacts import OnnxModel, TrainedModel, from_json, to_json
from edgekd.core.errors import ConfigError
from edgekd.distill import Epoch, Recipe, RunOptions, TrainSettings, load_recipe, run_recipe
from edgekd.models import deploy, load_model
from edgekd.pipeline.config import PrecisionConfig
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.timing import spread_inputs
from edgekd.precision import FakeQuantized, drawn_calibration, fake_quantized, int8_from_fake_quantized

_EPOCHS = TypeAdapter(tuple[Epoch, ...])
_CHECK_INPUTS = 64
_CALIBRATION_BATCH = 32
_OUTPUT_BYTES = 1 << 27
OWN_METHOD = "run"


@dataclass(frozen=True)
class Tuned:
    """A student fine-tuned in fake int8.

    Attributes:
        int8: Its int8 model for TensorRT, the Q/DQ those that it was trained with.
        fp32: The same weights in float.
        history: Every epoch.
    """

    int8: OnnxModel
    fp32: OnnxModel
    history: tuple[Epoch, ...]


def require_trainable(context: RunContext) -> None:
    """Refuse, before anything is trained, quantisation-aware training on texts or by a recipe that cannot go on.

    Raises:
        ConfigError: It is one of these.
    """
    if not context.config.precision.qat:
        return
    going_on(context.recipe, context.config.precision.qat_method)
    if context.dataset.vocabulary:
        raise ConfigError(
            "precision.qat is for networks of pictures: products of two activations, as in attention, are not "
            "fake-quantised; leave it out"
        )


def fine_tuned(context: RunContext, student: TrainedModel, teacher: TrainedModel) -> Tuned:
    """Go on training the student as its int8 model will compute, from the weights that were distilled.

    Args:
        context: The run.
        student: The student that is shipped.
        teacher: Its teacher.

    Raises:
        ExportError: The network cannot be fake-quantised or exported.
        ParityError: The int8 model does not answer as the network that was trained.
        TrainingDiverged: A loss became NaN or infinite.
    """
    config, recipe = context.config, going_on(context.recipe, context.config.precision.qat_method)
    settings = qat_settings(config.train, config.precision)
    inputs = {
        "student": student.digest,
        "teacher": teacher.digest if recipe.needs_teacher else None,
        "recipe": recipe.digest,
        "settings": settings.model_dump(mode="json"),
        "data": context.dataset.digest,
        "calibration_size": config.calibration_size,
        "opset": context.target.max_opset,
    }

    def work() -> dict[str, Any]:
        net, history = _trained(context, recipe, student, teacher, settings)
        checked, _ = spread_inputs(context.dataset.val, context.affordable(_CHECK_INPUTS, _OUTPUT_BYTES))
        path = context.folder / "onnx" / "student.int8-qat.onnx"
        opset, parents = context.target.max_opset, (student.digest, teacher.digest)
        int8, fp32 = int8_from_fake_quantized(net, path, inputs=checked, opset=opset, parents=parents)
        return {
            "int8": to_json(int8),
            "fp32": to_json(fp32),
            "history": [dataclasses.asdict(epoch) for epoch in history],
        }

    result = context.ledger.stage("qat", inputs, work)
    models = [from_json(OnnxModel, result[name]) for name in ("int8", "fp32")]
    return Tuned(models[0], models[1], _EPOCHS.validate_python(result["history"]))


def going_on(recipe: Recipe, method: str) -> Recipe:
    """Return the recipe to fine-tune by.

    Args:
        recipe: The run's.
        method: Another by name or file, or `"run"` for that one.

    Raises:
        ConfigError: There is no such recipe, or it starts networks anew or trains others beside the student.
    """
    chosen = recipe if method == OWN_METHOD else load_recipe(method)
    learners = [learner for stage in chosen.stages for learner in stage.learners]
    starts_anew = any(learner.start != "as-is" for learner in learners) or chosen.needs_pretrained_student
    if starts_anew or chosen.roles or chosen.policies:
        raise ConfigError(
            f"recipe {chosen.name!r} starts networks anew or trains others beside the student, so it cannot go on in "
            "fake int8: choose another by precision.qat_method, such as kd"
        )
    return chosen


def qat_settings(settings: TrainSettings, precision: PrecisionConfig) -> TrainSettings:
    """Return the run's settings as fine-tuning in fake int8 wants them.

    Without batch norms, gradients differ much from layer to layer: AdamW, bounded, and no weight decay.
    """
    return settings.model_copy(
        update={
            "epochs": precision.qat_epochs,
            "lr": precision.qat_lr,
            "optimizer": "adamw",
            "weight_decay": 0.0,
            "schedule": "cosine",
            "warmup": 0.0,
            "max_grad_norm": 1.0,
            "precision": "no",
            "compile": "no",
            "layer_decay": 1.0,
            "student_lr": None,
            "layer_lr": {},
            "ema": None,
            "mixup": 0.0,
            "cutmix": 0.0,
            "cuda_graphs": False,
            "auto_batch": False,
            "select": "best",
        }
    )


def _trained(
    context: RunContext, recipe: Recipe, student: TrainedModel, teacher: TrainedModel, settings: TrainSettings
) -> tuple[FakeQuantized, tuple[Epoch, ...]]:
    made: list[FakeQuantized] = []
    calibration = drawn_calibration(
        context.dataset, size=context.config.calibration_size, seed=context.config.data.seed
    )

    def remodel(backbone: nn.Module) -> nn.Module:
        batches = torch.split(torch.from_numpy(calibration), _CALIBRATION_BATCH)
        made.append(fake_quantized(deploy(backbone).eval(), batches))
        return made[0].module

    start = load_model(student).state_dict()
    folder = context.folder / "checkpoints" / "qat"
    outcome = run_recipe(
        recipe,
        student=student.spec,
        teacher=(teacher.spec, load_model(teacher)) if recipe.needs_teacher else None,
        dataset=context.dataset,
        settings=settings,
        options=RunOptions(student.seed, "qat", folder, context.listener, start, remodel=remodel),
    )
    return made[0], outcome.history
