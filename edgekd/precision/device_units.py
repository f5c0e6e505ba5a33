"""Refuses a precision, or an opset, that a device cannot run, and says which can."""

from __future__ import annotations

from typing import Literal

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import TargetError
from edgekd.targets import Target

Units = Literal["bf16", "fp8"]
_DEVICES: dict[Units, str] = {
    "bf16": "Ampere, Orin, Ada, Hopper, Thor and Blackwell",
    "fp8": "Ada, Hopper, Thor and Blackwell",
}
_FIRST_MAJOR = 10


def require_units(target: Target, precision: Units) -> None:
    """Check that a device multiplies in a precision and that its TensorRT takes it as types.

    Args:
        target: The device.
        precision: What it is to run.

    Raises:
        TargetError: It cannot; says which devices can.
    """
    if precision not in target.peaks_tflops:
        where = "this machine's CPU" if target.kind == "cpu" else f"{target.name} (sm_{target.sm})"
        raise TargetError(
            f"{where} has no {precision} units, as far as its data say; {_DEVICES[precision]} have: use int8 or fp16"
        )
    if target.tensorrt is not None and int(target.tensorrt.split(".")[0]) < _FIRST_MAJOR:
        raise TargetError(
            f"{target.name} has TensorRT {target.tensorrt}; {precision} needs strong typing, which came with "
            f"{_FIRST_MAJOR}.0: use int8 or fp16"
        )


def require_readable(model: OnnxModel, target: Target) -> None:
    """Check that a device's ONNX parser reads a model's opset.

    Args:
        model: The model.
        target: The device.

    Raises:
        TargetError: It does not; says which opset to export.
    """
    if model.opset > target.read_opset:
        raise TargetError(
            f"{model.file.path} is opset {model.opset}, {target.name} is given {target.read_opset} at most: export it "
            f"again with --opset {target.max_opset}"
        )
