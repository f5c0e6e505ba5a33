"""Makes ONNX Runtime's CPU provider feel fp16: it computes typed fp16 graphs in float32 and rounds almost nothing.

The provider has few fp16 kernels, so it wraps nodes in casts and then drops the casts between neighbours: an
activation of 1e6 stays finite there and overflows on a GPU. Here the same graph is written in float32 with an explicit
round trip through fp16 after every fp16 value, which the provider keeps. Sums inside one operator stay float32, as
on tensor cores.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.model_file import with_shapes

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def half_tensor(values: npt.NDArray[np.float32], name: str, kind: int) -> onnx.TensorProto:
    """Return a constant in a 16-bit type, rounded to nearest, ties to even.

    Args:
        values: Finite numbers.
        name: Its name.
        kind: `TensorProto.FLOAT16` or `TensorProto.BFLOAT16`.
    """
    if kind == TensorProto.FLOAT16:
        return numpy_helper.from_array(values.astype(np.float16), name)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return onnx.TensorProto(name=name, data_type=kind, dims=values.shape, raw_data=upper.tobytes())


def fp16_rounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model that rounds where a typed fp16 or bf16 model does.

    Args:
        proto: A model with fp16 or bf16 values, float32 inputs and outputs.

    Returns:
        The emulation; for checks on a CPU, never to be shipped.

    Raises:
        ExportError: The model is not valid ONNX.
    """
    typed = with_shapes(proto)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    halves = {name: kind for name, kind in kinds.items() if kind in _HALVES}
    nodes = [made for node in typed.graph.node for made in _rounding(node, halves)]
    tensors = [_widened(tensor) for tensor in typed.graph.initializer]
    for part, values in ((typed.graph.node, nodes), (typed.graph.initializer, tensors), (typed.graph.value_info, [])):
        del part[:]
        part.extend(values)
    return typed


def _rounding(node: onnx.NodeProto, halves: Mapping[str, int]) -> list[onnx.NodeProto]:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    made = [copy]
    for index, name in enumerate(node.output):
        if name in halves:
            copy.output[index] = f"{name}/exact"
            made.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=halves[name]))
            made.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    for item in copy.attribute:
        if copy.op_type == "Cast" and item.name == "to" and item.i in _HALVES:
            item.i = TensorProto.FLOAT
    return made


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type == TensorProto.BFLOAT16:
        upper = np.frombuffer(tensor.raw_data, "<u2").astype(np.uint32)
        return numpy_helper.from_array((upper << 16).view(np.float32).reshape(tensor.dims), tensor.name)
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
