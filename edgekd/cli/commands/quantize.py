"""`edgekd quantize`: an fp32 ONNX file to fp16 or int8, the precision written into the graph."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.core.artifacts import OnnxModel
    from edgekd.data import NetInputs


class Lower(str, Enum):
    """Precisions to go down to."""

    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"


class Calibrator(str, Enum):
    """How the range of an activation follows from the values seen."""

    MIN_MAX = "min-max"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


class Flavour(str, Enum):
    """Who int8 is for: each runtime is fast on its own form."""

    CPU = "cpu"
    TENSORRT = "tensorrt"


def quantize(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An fp32 ONNX file.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    precision: Annotated[Lower, typer.Option(help="Precision to write.")] = Lower.INT8,
    flavour: Annotated[Flavour, typer.Option(help="Runtime that int8 is for.")] = Flavour.CPU,
    calibration: Annotated[
        str | None, typer.Option(help="Data that int8 ranges are measured on: a data set name or YAML file.")
    ] = None,
    size: Annotated[int, typer.Option(min=32, help="Calibration inputs, drawn from the training split.")] = 256,
    calibrator: Annotated[
        Calibrator, typer.Option(help="How int8 ranges follow from the values seen.")
    ] = Calibrator.MIN_MAX,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Keep layers in float where int8 harms, and list them with reasons.")
    ] = False,
    max_drop: Annotated[
        float, typer.Option(min=0, max=0.99, help="With --per-layer: score that may be lost; 0.01 is one point.")
    ] = 0.01,
    target: Annotated[
        str | None,
        typer.Option(help="Device it is for: checks opset and units; needed for bf16, fp8 and TensorRT's layers."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Write a model in fp16, bf16, int8 or fp8.

    Whether a lower precision is worth taking is not decided here: compare accuracy and `edgekd profile` of both.

    Example:
      edgekd quantize net.onnx --calibration digits -o net.int8.onnx
      edgekd quantize net.onnx --calibration digits --per-layer --flavour tensorrt --target jetson-orin -o net.int8.onnx
      edgekd quantize net.onnx --precision fp16 -o net.fp16.onnx
    """
    from edgekd.cli.onnx_file import onnx_model_from_file
    from edgekd.core.artifacts import to_json

    source = onnx_model_from_file(model)
    require_free(output, is_forced=force)
    _check_target(source, precision, flavour, target)
    if per_layer:
        _check_per_layer(precision, flavour, target)
    if precision in (Lower.INT8, Lower.FP8) and calibration is None:
        raise ConfigError(
            f"{precision.value} needs inputs to measure ranges on: pass --calibration with a data set or YAML file"
        )
    if dry_run:
        return planned(output, f"{precision.value} of {model}")
    asked = _Choice(precision, calibration or "", size, seed, flavour, calibrator, max_drop, target)
    if per_layer:
        return _layered(source, output, asked)
    written = _written(source, output, asked)
    sizes = f"{source.file.size_bytes:,} -> {written.file.size_bytes:,} bytes"
    text = f"{output}: {written.precision} for {written.flavour} runtimes, {sizes}"
    return Outcome({"source": to_json(source), "model": to_json(written)}, text)


@dataclass(frozen=True)
class _Choice:
    precision: Lower
    calibration: str
    size: int
    seed: int
    flavour: Flavour
    calibrator: Calibrator
    max_drop: float
    target: str | None


def _written(source: OnnxModel, output: Path, asked: _Choice) -> OnnxModel:
    from edgekd.precision import to_bf16, to_fp8, to_fp16, to_int8
    from edgekd.targets import get_target

    if asked.precision is Lower.FP16:
        return to_fp16(source, output)
    if asked.precision is Lower.INT8:
        return to_int8(
            source,
            output,
            calibration=_inputs(asked),
            flavour=asked.flavour.value,
            calibrator=asked.calibrator.value,
        )
    target = get_target(asked.target or "")
    if asked.precision is Lower.BF16:
        return to_bf16(source, output, target=target)
    return to_fp8(source, output, calibration=_inputs(asked), target=target, calibrator=asked.calibrator.value)


def _check_target(source: OnnxModel, precision: Lower, flavour: Flavour, target: str | None) -> None:
    """Check what can be known of the device; bf16 and fp8 need an opset of their own."""
    from edgekd.precision import require_readable, require_units
    from edgekd.targets import get_target

    is_new = precision in (Lower.BF16, Lower.FP8)
    if is_new and target is None:
        raise ConfigError(f"not every device runs {precision.value}: name the one it is for with --target")
    if target is None:
        return
    device = get_target(target)
    if precision in (Lower.BF16, Lower.FP8):
        require_units(device, "bf16" if precision is Lower.BF16 else "fp8")
    else:
        require_readable(source, device)
    if precision is Lower.INT8 and (device.kind == "cpu") != (flavour is Flavour.CPU):
        raise ConfigError(f"target {target} does not run int8 of flavour {flavour.value}; name the other one")


def _check_per_layer(precision: Lower, flavour: Flavour, target: str | None) -> None:
    if precision is not Lower.INT8:
        raise ConfigError(f"--per-layer chooses layers for int8, not for {precision.value}")
    if flavour is Flavour.TENSORRT and target is None:
        raise ConfigError("--per-layer for TensorRT weighs gains on a device: name it with --target")


def _layered(source: OnnxModel, output: Path, asked: _Choice) -> Outcome:
    from edgekd.cli.data_choice import dataset_from_choice
    from edgekd.cli.table import format_table
    from edgekd.core.artifacts import to_json
    from edgekd.pipeline.layering import layered
    from edgekd.pipeline.lowering import table_of
    from edgekd.precision import calibrated, drawn_calibration
    from edgekd.targets import get_target

    dataset = dataset_from_choice(asked.calibration)
    inputs = drawn_calibration(dataset, size=asked.size, seed=asked.seed)
    ready = calibrated(source, calibration=inputs, flavour=asked.flavour.value, calibrator=asked.calibrator.value)
    found = layered(
        ready,
        output,
        inputs=inputs,
        split=dataset.val,
        target=get_target(asked.target or "cpu"),
        max_drop=asked.max_drop,
    )
    choice = found.choice
    rows = [
        [row.layer, row.operator, f"{row.snr_db:.1f}", f"{row.drop:.4f}", f"{row.gain_ms:.4g}", row.precision]
        for row in choice.rows
    ]
    table = format_table(["layer", "operator", "SNR dB", "drop alone", f"gain ms ({choice.kind})", "precision"], rows)
    written = f"{output}: {choice.reason}"
    if found.model is source:
        written = f"nothing was written: {choice.reason}, which is the source itself"
    document = {"source": to_json(source), "model": to_json(found.model), "layers": table_of(choice)}
    return Outcome(document, f"{table}\n\n{written}")


def _inputs(asked: _Choice) -> NetInputs:
    from edgekd.cli.data_choice import dataset_from_choice
    from edgekd.precision import drawn_calibration

    return drawn_calibration(dataset_from_choice(asked.calibration), size=asked.size, seed=asked.seed)
