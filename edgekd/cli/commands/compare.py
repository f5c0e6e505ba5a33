"""`edgekd compare`: the first layer at which two representations of a network differ."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table
from edgekd.core.errors import ConfigError, ExitCode, PreconditionError

if TYPE_CHECKING:
    from edgekd.export.layerwise import Feeds, LayerError, Layerwise, Side, Sides, TensorGraph, Tolerance

_LAYERS_SHOWN = 40
_MB = 2**20


@dataclasses.dataclass(frozen=True)
class _Compared:
    sides: Sides
    reference: TensorGraph | None
    precision: str


def compare(
    models: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="The reference, then the other: ONNX files.")
    ],
    *,
    spec: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Compare with a torch network: its architecture."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its weights, .safetensors or .pth.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Compare with engines of one ONNX file: onnxruntime, tensorrt, tensorrt_rtx.")
    ] = None,
    target: Annotated[str, typer.Option(help="Device the engines are for.")] = "cpu",
    inputs: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="An .npz with an array an input; else random."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Random inputs, where the batch is open.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random inputs.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Error that is fine; by default that of the second side's precision."),
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Compute about log2 of the layers, one at a time; always for engines.")
    ] = False,
    part_mb: Annotated[int, typer.Option(min=1, help="MiB of intermediate tensors held at a time by each side.")] = 256,
) -> Outcome:
    """Compare a network layer by layer, and name the first layer that departs though what it computes from is fine.

    Two ONNX files, a torch network and its export (--spec, --weights), or an ONNX file and engines of it (--backend).
    Ends with 3 when a layer departs.

    Examples:
      edgekd compare net.fp32.onnx net.fp16.onnx --inputs x.npz
      edgekd compare net.onnx --spec net.json --weights net.safetensors
      edgekd compare net.onnx --backend onnxruntime --bisect
    """
    from edgekd.cli.network_inputs import inputs_from_file, random_feeds
    from edgekd.cli.onnx_file import read_onnx
    from edgekd.export.layerwise import TOLERANCES, TensorGraph, bisect_layers, checked_feeds, compare_layers, reasons

    _check_request(models, spec, weights, backend)
    first = TensorGraph(read_onnx(models[0]))
    given = inputs_from_file(inputs) if inputs is not None else random_feeds(first.proto, count, seed)
    feeds = checked_feeds(first, given)
    compared = _compared(models, first, feeds, torch_files=(spec, weights), backend=backend, target=target)
    limit = TOLERANCES[compared.precision]
    if tolerance is not None:
        limit = dataclasses.replace(limit, limit=tolerance)
    if bisect or backend is not None:
        found = bisect_layers(compared.sides, [feeds], limit)
    else:
        found = compare_layers(compared.sides, [feeds], limit, part_bytes=part_mb * _MB)
    why = {layer.pair.candidate: reasons(layer, compared.sides.graph, compared.reference) for layer in found.culprits}
    code = ExitCode.GATE_MISSED if found.culprits else ExitCode.DONE
    return Outcome(_document(found, why), _text(found, why), code)


def _check_request(models: list[Path], spec: Path | None, weights: Path | None, backend: str | None) -> None:
    if (spec is None) != (weights is None):
        raise ConfigError("a torch network is named by both --spec and --weights")
    others = (len(models) - 1) + (spec is not None) + (backend is not None)
    if len(models) > 2 or others != 1:
        raise ConfigError(
            "two things are compared: two ONNX files, or one with a torch network (--spec, --weights), or one with "
            "engines of it (--backend)"
        )


def _compared(
    models: list[Path],
    first: TensorGraph,
    feeds: Feeds,
    *,
    torch_files: tuple[Path | None, Path | None],
    backend: str | None,
    target: str,
) -> _Compared:
    from edgekd.cli.onnx_file import onnx_model_from_file, read_onnx
    from edgekd.export.layerwise import OnnxSide, Sides, TensorGraph, TorchSide, onnx_pairs, torch_pairs

    own = OnnxSide(first.proto, str(models[0]))
    spec, weights = torch_files
    if spec is not None and weights is not None:
        module = _torch_network(spec, weights)
        pairs, modules = torch_pairs(module, first, feeds)
        sides = Sides(TorchSide(module, modules, f"the torch network of {weights}"), own, first, pairs)
        return _Compared(sides, None, _precision(first))
    if backend is not None:
        side = _engine_side(models[0], first, backend, target)
        pairs = onnx_pairs(first, first, feeds)
        return _Compared(Sides(own, side, first, pairs), first, onnx_model_from_file(models[0]).precision)
    second = TensorGraph(read_onnx(models[1]))
    if len(second.inputs) != len(first.inputs):
        raise ConfigError(f"{models[0]} has {len(first.inputs)} inputs, {models[1]} has {len(second.inputs)}")
    pairs = onnx_pairs(first, second, feeds)
    return _Compared(Sides(own, OnnxSide(second.proto, str(models[1])), second, pairs), first, _precision(second))


def _torch_network(spec: Path, weights: Path) -> Any:
    from edgekd.cli.commands.export import net_spec_from_file
    from edgekd.models import build, deploy, load_weights

    module = build(net_spec_from_file(spec))
    load_weights(module, weights)
    return deploy(module.eval())


def _engine_side(path: Path, graph: TensorGraph, backend: str, target: str) -> Side:
    from edgekd.cli.onnx_file import onnx_model_from_file
    from edgekd.engine import BACKENDS, BuildOptions
    from edgekd.engine.layer_side import EngineSide
    from edgekd.targets import get_target

    builder = BACKENDS[backend]
    if refusal := builder.available():
        raise PreconditionError(f"{backend} cannot be used here: {refusal}")
    return EngineSide(onnx_model_from_file(path), graph.proto, builder, BuildOptions(get_target(target)))


def _precision(graph: TensorGraph) -> str:
    from onnx import TensorProto

    if any(node.op_type == "QuantizeLinear" for node in graph.proto.graph.node):
        return "int8"
    is_half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.constants.values())
    return "fp16" if is_half else "fp32"


def _document(found: Layerwise, why: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    return {
        "reference": found.reference,
        "candidate": found.candidate,
        "tolerance": dataclasses.asdict(found.tolerance),
        "is_bisection": found.is_bisection,
        "runs": found.runs,
        "culprit": None if found.culprit is None else found.culprit.pair.layer,
        "layers": [_row(layer) | {"reasons": list(why.get(layer.pair.candidate, ()))} for layer in found.layers],
    }


def _row(layer: LayerError) -> dict[str, Any]:
    from edgekd.export import module_of

    figures = {
        name: value if value is None or math.isfinite(value) else str(value)
        for name, value in dataclasses.asdict(layer.error).items()
    }
    return {
        "layer": layer.pair.layer,
        "module": module_of(layer.pair.node) if layer.pair.node else "",
        "status": layer.status,
        **dataclasses.asdict(layer.pair),
        **figures,
        "inputs": list(layer.inputs),
    }


def _text(found: Layerwise, why: dict[str, tuple[str, ...]]) -> str:
    rows = [
        (
            layer.pair.layer,
            layer.pair.op,
            f"{layer.error.max_abs:.3g}",
            f"{layer.error.max_rel:.3g}",
            "-" if layer.error.snr_db is None else f"{layer.error.snr_db:.1f}",
            "-" if layer.error.cosine is None else f"{layer.error.cosine:.6f}",
            layer.status,
        )
        for layer in _shown(found)
    ]
    left_out = len(found.layers) - len(rows)
    lines = [
        f"{found.reference} and {found.candidate}: {len(found.layers)} layers compared, {found.runs} runs of each side",
        format_table(("layer", "operator", "max abs", "max rel", "SNR dB", "cosine", ""), rows),
        *([f"... {left_out} layers are left out, see --json"] if left_out else []),
    ]
    return "\n".join([*lines, *_verdict(found, why, found.tolerance)])


def _shown(found: Layerwise) -> list[LayerError]:
    if len(found.layers) <= _LAYERS_SHOWN or found.culprit is None:
        return list(found.layers[:_LAYERS_SHOWN])
    place = found.layers.index(found.culprit)
    start = max(min(place - _LAYERS_SHOWN // 2, len(found.layers) - _LAYERS_SHOWN), 0)
    return list(found.layers[start : start + _LAYERS_SHOWN])


def _verdict(found: Layerwise, why: dict[str, tuple[str, ...]], tolerance: Tolerance) -> list[str]:
    error = f"{tolerance.on} {tolerance.limit:g}"
    if found.culprit is None:
        what = "the last layer is" if found.is_bisection else "every layer is"
        return [f"{what} within {error}"]
    lines = []
    for layer in found.culprits:
        value = layer.error.max_rel if tolerance.on == "max_rel" else layer.error.rms_rel
        fine = f"{', '.join(layer.inputs)} {'are' if len(layer.inputs) > 1 else 'is'} still fine"
        origin = fine if layer.inputs else "it computes from the inputs alone"
        lines.append(
            f"{layer.pair.layer} departs on its own: {tolerance.on} {value:.3g} above {tolerance.limit:g}; {origin}"
        )
        lines += [f"  {reason}" for reason in why.get(layer.pair.candidate, ())]
    return lines
