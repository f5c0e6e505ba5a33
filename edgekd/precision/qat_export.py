"""A fake-quantised network as an ONNX model with the Q/DQ that it was trained with, and the proof that both agree."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ExportError, ParityError
from edgekd.data import NetInputs
from edgekd.export import Form, export_onnx, read_content, read_proto, run_onnx, write_model
from edgekd.precision.fake_quant import FakeQuantized, Site, weight_scales
from edgekd.precision.int8 import require_quantised
from edgekd.precision.quant_report import WEIGHTED_OPS, adds_before_softmax, is_residual

_TYPICAL = 1e-3
_CHECK_BATCH = 32
_SELDOM = 0.1


def int8_from_fake_quantized(
    net: FakeQuantized,
    path: Path,
    *,
    inputs: NetInputs,
    opset: int,
    parents: tuple[str, ...],
) -> tuple[OnnxModel, OnnxModel]:
    """Export a fake-quantised network.

    Args:
        net: The network, on the CPU; it is not changed.
        path: The int8 file to write; the float model of the same weights goes beside it, `*.float.onnx`.
        inputs: Inputs `[n, ...]` to compare both on.
        opset: Opset of the files.
        parents: Digests of what the network was made from.

    Returns:
        The int8 model of flavour `"tensorrt"`, its scales those that were trained; and the fp32 model without them.

    Raises:
        ExportError: The network cannot be exported, or the graph has other layers than the network quantises.
        ParityError: Both disagree.
        StorageError: A file cannot be written.
    """
    expected = _answers(net, inputs)
    twin = copy.deepcopy(net.module)
    twin._forward_pre_hooks.clear()
    twin._forward_hooks.clear()
    plain = FakeQuantized(twin, net.sites, ()).release()
    shape = tuple(inputs.shape[1:])
    plain_path = path.with_suffix(".float.onnx")
    fp32 = export_onnx(plain, plain_path, input_shape=shape, opset=opset, parents=parents)
    weights = {name: value.detach() for name, value in plain.named_parameters()}
    proto = with_trained_pairs(read_proto(fp32), net.sites, net.scales, weights)
    require_quantised(proto, "tensorrt")
    notes = {"edgekd.calibration": "scales trained with the weights"}
    with tempfile.TemporaryDirectory(prefix="edgekd-qat-") as folder:
        form = Form("int8", "tensorrt", (fp32.digest,), notes)
        draft = write_model(proto, Path(folder) / "draft.onnx", form)
        _require_same(expected, run_onnx(read_content(draft), inputs, batch=_CHECK_BATCH, as_written=True))
    return write_model(proto, path, form), fp32


def with_trained_pairs(
    proto: onnx.ModelProto, sites: tuple[Site, ...], scales: Tensor, weights: Mapping[str, Tensor]
) -> onnx.ModelProto:
    """Put Q/DQ pairs with given scales in front of the layers and residual additions of a float graph.

    Args:
        proto: The graph; layers are recognised by their weights, additions by their order.
        sites: The quantised calls of the network it was exported from, in order.
        scales: Activation scales `[S]`.
        weights: Its parameters by name.

    Returns:
        A copy with the pairs.

    Raises:
        ExportError: The graph has other layers or additions than the network.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    pairs = _Pairs(result.graph, scales)
    nodes = list(result.graph.node)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    masks = adds_before_softmax(result.graph)
    adds = [node for node in nodes if node.op_type == "Add" and is_residual(node, constants) and node.name not in masks]
    layers = [node for node in nodes if node.op_type in WEIGHTED_OPS and node.input[1] in constants]
    wanted = [site for site in sites if not site.weight]
    if len(adds) != len(wanted) or len(layers) != len(sites) - len(wanted):
        raise ExportError(
            f"the graph has {len(layers)} layers with weights and {len(adds)} residual additions, the network "
            f"quantises {len(sites) - len(wanted)} and {len(wanted)}: it cannot be fine-tuned for int8"
        )
    for node, site in zip(adds, wanted, strict=True):
        pairs.before(node, site.scales)
    for site in sites:
        if site.weight:
            node, axis = _layer_of(site.weight, weights[site.weight], layers, constants)
            layers.remove(node)
            pairs.before(node, site.scales)
            pairs.on_weight(node, axis, weight_scales(weights[site.weight]).flatten().numpy())
    del result.graph.node[:]
    result.graph.node.extend(made for node in nodes for made in (*pairs.made.get(node.name, ()), node))
    return result


class _Pairs:
    """Pairs made so far: one for a tensor and scale, written before the first node that reads it."""

    def __init__(self, graph: onnx.GraphProto, scales: Tensor) -> None:
        self.made: dict[str, list[onnx.NodeProto]] = {}
        self._graph, self._scales = graph, scales.numpy()
        self._place = {node.name: index for index, node in enumerate(graph.node)}
        self._output: dict[tuple[str, int], tuple[str, onnx.NodeProto]] = {}
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "activation_zero_point"))

    def before(self, node: onnx.NodeProto, scales: tuple[int, ...]) -> None:
        for index, scale in enumerate(scales):
            node.input[index] = self._quantised(node, node.input[index], scale)

    def on_weight(self, node: onnx.NodeProto, axis: int, scales: npt.NDArray[np.float32]) -> None:
        name = node.input[1]
        self._graph.initializer.extend(
            [
                numpy_helper.from_array(scales, f"{name}_scale"),
                numpy_helper.from_array(np.zeros(len(scales), np.int8), f"{name}_zero_point"),
            ]
        )
        node.input[1] = self._pair(node, name, (f"{name}_scale", f"{name}_zero_point"), axis=axis)

    def _quantised(self, node: onnx.NodeProto, name: str, scale: int) -> str:
        key = (name, scale)
        if key in self._output:
            output, first = self._output[key]
            if self._place[node.name] < self._place[first.name]:
                self.made.setdefault(node.name, []).extend(self._moved(first, output))
                self._output[key] = (output, node)
            return output
        held = f"activation_scale_{scale}"
        if held not in {tensor.name for tensor in self._graph.initializer}:
            self._graph.initializer.append(numpy_helper.from_array(self._scales[scale].reshape(()), held))
        self._output[key] = (self._pair(node, name, (held, "activation_zero_point"), suffix=f"_{scale}"), node)
        return self._output[key][0]

    def _moved(self, first: onnx.NodeProto, output: str) -> list[onnx.NodeProto]:
        made = self.made[first.name]
        place = next(index for index, node in enumerate(made) if node.output[0] == output)
        moved = made[place - 1 : place + 1]
        del made[place - 1 : place + 1]
        return moved

    def _pair(
        self, node: onnx.NodeProto, name: str, numbers: tuple[str, str], *, suffix: str = "", axis: int | None = None
    ) -> str:
        options: dict[str, Any] = {} if axis is None else {"axis": axis}
        stem = f"{name}{suffix}"
        whole, back = f"{stem}_quantized", f"{stem}_dequantized"
        self.made.setdefault(node.name, []).extend(
            [
                helper.make_node("QuantizeLinear", [name, *numbers], [whole], f"{stem}/QuantizeLinear", **options),
                helper.make_node("DequantizeLinear", [whole, *numbers], [back], f"{stem}/DequantizeLinear", **options),
            ]
        )
        return back


def _layer_of(
    name: str, weight: Tensor, layers: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, int]:
    """Return the node with these weights and the axis of its output channels."""
    wanted = weight.numpy()
    for node in layers:
        held = numpy_helper.to_array(constants[node.input[1]])
        if held.shape == wanted.shape and np.array_equal(held, wanted) and not _is_crossed(node):
            return node, 0
        if wanted.ndim == 2 and held.shape == wanted.shape[::-1] and np.array_equal(held, wanted.T):
            return node, 1
    raise ExportError(f"the exported graph has no layer with the weights {name}: it cannot be fine-tuned for int8")


def _is_crossed(node: onnx.NodeProto) -> bool:
    """Say whether a matrix of weights `[in, out]` is square and read as it is, so that its channels lie on axis 1."""
    if node.op_type == "MatMul":
        return True
    return node.op_type == "Gemm" and not any(item.name == "transB" and item.i for item in node.attribute)


def _answers(net: FakeQuantized, inputs: NetInputs) -> npt.NDArray[np.float32]:
    net.module.eval()
    with torch.no_grad():
        parts = [net.module(part) for part in torch.split(torch.from_numpy(inputs), _CHECK_BATCH)]
    answers: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return answers


def _require_same(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> None:
    """Check answers; sums in another order may turn single roundings, and no more."""
    size = float(np.sqrt(np.square(expected, dtype=np.float64).mean())) or 1.0
    errors = np.abs(found - expected) / size
    typical, seldom = (float(np.quantile(errors, share)) for share in (0.5, 0.9))
    if not (typical <= _TYPICAL and seldom <= _SELDOM):
        raise ParityError(
            f"the int8 model is not the network that was trained: half of the outputs differ by more than "
            f"{typical:.3g}, one in ten by more than {seldom:.3g} of their size (limits {_TYPICAL} and {_SELDOM})"
        )
