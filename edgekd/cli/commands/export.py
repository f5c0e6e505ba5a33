"""`edgekd export`: trained weights to an ONNX file that is proven equal to the network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.data_choice import dataset_from_choice
from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError, TargetError

if TYPE_CHECKING:
    from edgekd.core.artifacts import NetSpec
    from edgekd.data import Dataset

_OPSET = 17
_PARITY_INPUTS = 64


def export(
    *,
    spec: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The architecture, JSON of a net or a trained model.")
    ],
    weights: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help=".safetensors, or a .pth of plain tensors.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    target: Annotated[str | None, typer.Option(help="Check the opset for this target.")] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset; by default 17, or the target's highest if lower.")
    ] = None,
    batch: Annotated[int, typer.Option(min=0, help="Fixed batch size; 0 leaves it open.")] = 0,
    data: Annotated[str | None, typer.Option(help="Compare on these data too: a data set name or YAML file.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Export a network to ONNX and compare both.

    The file is kept only if ONNX Runtime computes the same logits as the network; otherwise the command ends with 3.

    Example:
      edgekd export --spec net.json --weights net.safetensors --data digits -o net.onnx
    """
    net = net_spec_from_file(spec)
    wanted = _opset_for(opset, target)
    require_free(output, is_forced=force)
    if dry_run:
        return planned(output, f"{net.name}, opset {wanted}")
    dataset = None if data is None else dataset_from_choice(data)
    model, report = _exported(net, weights, output, opset=wanted, batch=batch, dataset=dataset)
    origin = "random inputs only: pass --data for real ones"
    if dataset is not None:
        origin = f"real inputs of {dataset.name} and random ones"
    text = f"{output}: {net.name}, opset {wanted}, {model['file']['size_bytes']:,} bytes\n{report['text']} ({origin})"
    return Outcome({"model": model, "parity": {**report, "inputs": origin}}, text)


def _exported(
    net: NetSpec, weights: Path, output: Path, *, opset: int, batch: int, dataset: Dataset | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    from edgekd.core.artifacts import FileRef, to_json
    from edgekd.core.atomic import replacing
    from edgekd.data import calibration_inputs
    from edgekd.export import export_onnx, parity, random_inputs, require_parity
    from edgekd.models import build, deploy, load_weights

    module = build(net)
    load_weights(module, weights)
    module = deploy(module.eval())
    with replacing(output) as draft:
        model = export_onnx(module, draft, input_shape=net.input_shape, opset=opset, batch=batch, parents=(net.digest,))
        inputs = (
            random_inputs(model, _PARITY_INPUTS, seed=0)
            if dataset is None
            else calibration_inputs(dataset, size=_PARITY_INPUTS, seed=0)
        )
        report = parity(module, model, inputs)
        require_parity(report)
    kept = dataclasses.replace(model, file=FileRef.of(output))
    return to_json(kept), {**dataclasses.asdict(report), "is_ok": report.is_ok, "text": report.describe()}


def net_spec_from_file(path: Path) -> NetSpec:
    """Read an architecture.

    Args:
        path: JSON of a `NetSpec`, or of a `TrainedModel`, whose `spec` is taken.

    Returns:
        The architecture.

    Raises:
        ConfigError: The file is no such JSON; unknown and wrong keys are named.
    """
    from pydantic import TypeAdapter, ValidationError

    from edgekd.core.artifacts import NetSpec

    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    content = document.get("spec", document) if isinstance(document, dict) else {}
    unknown = set(content) - {field.name for field in dataclasses.fields(NetSpec)} - {"digest"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {', '.join(sorted(unknown))} in the architecture")
    try:
        return TypeAdapter(NetSpec).validate_python({key: value for key, value in content.items() if key != "digest"})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path} is no architecture: {problems}") from error


def _opset_for(opset: int | None, target: str | None) -> int:
    from edgekd.targets import get_target

    device = get_target(target) if target else None
    if opset is not None and device is not None and opset > device.read_opset:
        raise TargetError(f"opset {opset} is newer than {target} takes: choose at most --opset {device.read_opset}")
    return opset or (min(_OPSET, device.max_opset) if device else _OPSET)
