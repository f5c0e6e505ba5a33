"""Every lower precision of the student: fp16, int8 after training, int8 layer by layer, int8 trained for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from edgekd.core.artifacts import Flavour, OnnxModel, Precision
from edgekd.core.errors import ExportError
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.layering import layered
from edgekd.pipeline.qat import Tuned
from edgekd.precision import LayerChoice, Verdict, calibrated, drawn_calibration, to_fp16, write_int8
from edgekd.targets import Target

Int8Flavour = Literal["cpu", "tensorrt"]
VARIANTS = {"int8-layers": "layer by layer", "int8-qat": "QAT", "int8-qat-cpu": "QAT weights"}
"""How models were made, by role, where their precision is there in several ways."""


@dataclass
class Lowered:
    """What could be made.

    Attributes:
        models: Models by role, fp32 first.
        refused: A verdict for each that could not be made.
        layers: The choice layer by layer as plain data, where it was asked for.
    """

    models: dict[str, OnnxModel]
    refused: list[Verdict] = field(default_factory=list)
    layers: dict[str, Any] | None = None


def lowered(context: RunContext, fp32: OnnxModel, tuned: Tuned | None) -> Lowered:
    """Make the lower precisions of a model.

    Args:
        context: The run.
        fp32: The student.
        tuned: It fine-tuned in fake int8, or None.

    Raises:
        DataError: The calibration set is unusable.
    """
    config, folder = context.config, context.folder / "onnx"
    calibration = drawn_calibration(context.dataset, size=config.calibration_size, seed=config.data.seed)
    ranges = partial(calibrated, calibration=calibration, calibrator=config.precision.calibrator)
    found = Lowered({"fp32": fp32})

    def after_training(flavour: Int8Flavour, name: str) -> OnnxModel:
        ready = ranges(fp32, flavour=flavour)
        model = write_int8(ready, folder / name)
        if config.precision.per_layer and flavour == flavour_of(context.target):
            _add_layered(context, found, ready, calibration)
        return model

    conversions: dict[str, tuple[Precision, Flavour, Callable[[], OnnxModel]]] = {
        "fp16": ("fp16", "any", partial(to_fp16, fp32, folder / "student.fp16.onnx", inputs=calibration)),
        "int8": ("int8", "tensorrt", partial(after_training, "tensorrt", "student.int8.onnx")),
        "int8-cpu": ("int8", "cpu", partial(after_training, "cpu", "student.int8-cpu.onnx")),
    }
    if tuned is not None:
        found.models["int8-qat"] = tuned.int8
        path = folder / "student.int8-qat-cpu.onnx"
        conversions["int8-qat-cpu"] = (
            "int8",
            "cpu",
            lambda: write_int8(ranges(tuned.fp32, flavour="cpu"), path),
        )
    for role, (precision, flavour, convert) in conversions.items():
        try:
            found.models[role] = convert()
        except ExportError as error:
            variant = VARIANTS.get(role, "")
            found.refused.append(Verdict(precision, flavour, False, f"{precision}: {error}", variant))
    return found


def flavour_of(target: Target) -> Int8Flavour:
    """Return the form of int8 that a target runs fast."""
    return "cpu" if target.kind == "cpu" else "tensorrt"


def table_of(choice: LayerChoice) -> dict[str, Any]:
    """Return a choice layer by layer as plain data: every layer, the mixtures that no other beats, and the reason."""
    return {
        "rows": [dataclasses.asdict(row) for row in choice.rows],
        "front": [dataclasses.asdict(mixture) for mixture in choice.front],
        "kind": choice.kind,
        "reason": choice.reason,
    }


def _add_layered(context: RunContext, found: Lowered, ready: Any, calibration: Any) -> None:
    result = layered(
        ready,
        context.folder / "onnx" / "student.int8-layers.onnx",
        inputs=calibration,
        split=context.dataset.val,
        target=context.target,
        max_drop=context.config.max_drop,
        threads=context.config.threads,
    )
    found.layers = table_of(result.choice)
    if 0 < len(result.choice.chosen.kept_float) < len(result.choice.rows):
        found.models["int8-layers"] = result.model
