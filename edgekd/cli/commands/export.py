"""`edgekd export`: trained weights to an ONNX file that is proven equal to the network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free
from edgekd.core.errors import ConfigError, TargetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekd.core.artifacts import NetSpec

_OPSET = 17
_PARITY_IMAGES = 64


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
    data: Annotated[str | None, typer.Option(help="Compare on these images too: a data set name or YAML file.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Export a network to ONNX and compare both on images.

    The file is kept only if ONNX Runtime computes the same logits as the network; otherwise the command ends with 3.

    Example:
      edgekd export --spec net.json --weights net.safetensors --data digits -o net.onnx
    """
    net = net_spec_from_file(spec)
    wanted = _opset_for(opset, target)
    require_free(output, is_forced=force)
    if dry_run:
        return planned(output, f"{net.name}, opset {wanted}")
    images, origin = _images(data, net)
    model, report = _exported(net, weights, output, opset=wanted, batch=batch, images=images)
    text = f"{output}: {net.name}, opset {wanted}, {model['file']['size_bytes']:,} bytes\n{report['text']} ({origin})"
    return Outcome({"model": model, "parity": {**report, "images": origin}}, text)


def _exported(
    net: NetSpec, weights: Path, output: Path, *, opset: int, batch: int, images: NDArray[np.float32]
) -> tuple[dict[str, Any], dict[str, Any]]:
    from edgekd.core.artifacts import FileRef, to_json
    from edgekd.core.atomic import replacing
    from edgekd.export import export_onnx, parity, require_parity
    from edgekd.models import build, deploy, load_weights

    module = build(net)
    load_weights(module, weights)
    module = deploy(module.eval())
    with replacing(output) as draft:
        model = export_onnx(module, draft, input_shape=net.input_shape, opset=opset, batch=batch, parents=(net.digest,))
        report = parity(module, model, images)
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
    except (OSError, ValueError) as error:
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

    highest = get_target(target).max_opset if target else None
    if opset is not None and highest is not None and opset > highest:
        raise TargetError(f"opset {opset} is newer than {target} takes: choose at most --opset {highest}")
    return opset or min(_OPSET, highest or _OPSET)


def _images(data: str | None, net: NetSpec) -> tuple[NDArray[np.float32], str]:
    import numpy as np

    from edgekd.cli.data_choice import dataset_from_choice
    from edgekd.data import calibration_inputs

    if data is None:
        shape = (_PARITY_IMAGES, *net.input_shape)
        return np.random.default_rng(0).random(shape, dtype=np.float32), "random images only: pass --data for real ones"
    dataset = dataset_from_choice(data)
    return calibration_inputs(dataset, size=_PARITY_IMAGES, seed=0), f"real images of {dataset.name} and random ones"
