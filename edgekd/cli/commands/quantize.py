"""`edgekd quantize`: an fp32 ONNX file to fp16 or int8, the precision written into the graph."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.data import NetInputs


class Lower(str, Enum):
    """Precisions to go down to."""

    FP16 = "fp16"
    INT8 = "int8"


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
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Write a model in fp16 or int8.

    Whether a lower precision is worth taking is not decided here: compare accuracy and `edgekd profile` of both.

    Example:
      edgekd quantize net.onnx --calibration digits -o net.int8.onnx
      edgekd quantize net.onnx --precision fp16 -o net.fp16.onnx
    """
    from edgekd.cli.onnx_file import onnx_model_from_file
    from edgekd.core.artifacts import to_json
    from edgekd.precision import to_fp16, to_int8

    source = onnx_model_from_file(model)
    require_free(output, is_forced=force)
    if precision is Lower.INT8 and calibration is None:
        raise ConfigError("int8 needs inputs to measure ranges on: pass --calibration with a data set or YAML file")
    if dry_run:
        return planned(output, f"{precision.value} of {model}")
    if calibration is None or precision is Lower.FP16:
        written = to_fp16(source, output)
    else:
        inputs = _inputs(calibration, size, seed)
        written = to_int8(source, output, calibration=inputs, flavour=flavour.value, calibrator=calibrator.value)
    sizes = f"{source.file.size_bytes:,} -> {written.file.size_bytes:,} bytes"
    text = f"{output}: {written.precision} for {written.flavour} runtimes, {sizes}"
    return Outcome({"source": to_json(source), "model": to_json(written)}, text)


def _inputs(calibration: str, size: int, seed: int) -> NetInputs:
    from edgekd.cli.data_choice import dataset_from_choice
    from edgekd.precision import drawn_calibration

    return drawn_calibration(dataset_from_choice(calibration), size=size, seed=seed)
