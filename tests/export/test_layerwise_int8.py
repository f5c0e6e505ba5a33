"""An activation that quantisation does instead is compared where both sides have it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.layerwise import TOLERANCES, OnnxSide, Sides, TensorGraph, compare_layers, onnx_pairs

pytest.importorskip("onnxruntime")
FEEDS = {"input": np.random.default_rng(5).random((3, 4, 8, 8), dtype=np.float32) - 0.5}
WEIGHTS = [
    numpy_helper.from_array(np.random.default_rng(seed).standard_normal((4, 4, 3, 3)).astype(np.float32) / 6, name)
    for seed, name in enumerate(("v", "w"))
]


def model(nodes, *constants):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4, 8, 8]) for name in ("input", "logits")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [*WEIGHTS, *constants])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def conv(source, weight, made):
    return helper.make_node("Conv", [source, weight], [made], f"{made}/Conv", pads=[1] * 4)


def in_float():
    relu = helper.make_node("Relu", ["c"], ["r"], "r/Relu")
    return model([conv("input", "v", "c"), relu, conv("r", "w", "logits")])


def in_int8(*, zero=0, scale=0.004):
    # As ONNX Runtime's quantiser writes it: no Relu, its output's name on the convolution, integers from 0 on.
    scales = [numpy_helper.from_array(np.float32(scale), "s"), numpy_helper.from_array(np.uint8(zero), "z")]
    steps = [("QuantizeLinear", "r", "q"), ("DequantizeLinear", "q", "d")]
    nodes = [helper.make_node(kind, [source, "s", "z"], [made], f"{made}/{kind}") for kind, source, made in steps]
    return model([conv("input", "v", "r"), *nodes, conv("d", "w", "logits")], *scales)


def layers_of(*protos):
    for proto in protos:
        onnx.checker.check_model(proto)
    graphs = [TensorGraph(proto) for proto in protos]
    sides = Sides(OnnxSide(protos[0], "a"), OnnxSide(protos[1], "b"), graphs[1], onnx_pairs(*graphs, FEEDS))
    return {layer.pair.layer: layer for layer in compare_layers(sides, [FEEDS], TOLERANCES["int8"]).layers}


@pytest.mark.parametrize("is_float_first", [True, False])
def test_a_relu_that_quantisation_does_is_no_fault(is_float_first):
    pair = (in_float(), in_int8()) if is_float_first else (in_int8(), in_float())
    found = layers_of(*pair)
    assert {layer.status for layer in found.values()} == {"fine"}
    assert found["r/Conv" if is_float_first else "r/Relu"].error.rms_rel < 0.02


def test_a_range_that_keeps_what_relu_drops_is_the_fault():
    found = layers_of(in_float(), in_int8(zero=128, scale=0.01))
    assert found["r/Conv"].status == "culprit"
