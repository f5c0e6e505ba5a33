"""Makes ONNX Runtime's CPU provider feel fp16: it computes typed fp16 graphs in float32 and rounds almost nothing.

The provider has few fp16 kernels, so it wraps nodes in casts and then drops the casts between neighbours: an
activation of 1e6 stays finite there and overflows on a GPU. Here the same graph is written in float32 with an explicit
round trip through fp16 after every fp16 value, which the provider keeps. Sums inside one operator stay float32, as
on tensor cores.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.model_file import with_shapes


def fp16_rounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 model that rounds where a typed fp16 model does.

    Args:
        proto: A model with fp16 values, float32 inputs and outputs.

    Returns:
        The emulation; for checks on a CPU, never to be shipped.

    Raises:
        ExportError: The model is not valid ONNX.
    """
    typed = with_shapes(proto)
    halves = {value.name for value in typed.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = [made for node in typed.graph.node for made in _rounding(node, halves)]
    tensors = [_widened(tensor) for tensor in typed.graph.initializer]
    for part, values in ((typed.graph.node, nodes), (typed.graph.initializer, tensors), (typed.graph.value_info, [])):
        del part[:]
        part.extend(values)
    return typed


def _rounding(node: onnx.NodeProto, halves: set[str]) -> list[onnx.NodeProto]:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    made = [copy]
    for index, name in enumerate(node.output):
        if name in halves:
            copy.output[index] = f"{name}/exact"
            made.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=TensorProto.FLOAT16))
            made.append(helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT))
    for item in copy.attribute:
        if copy.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT16:
            item.i = TensorProto.FLOAT
    return made


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
