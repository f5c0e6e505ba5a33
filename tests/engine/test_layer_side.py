"""Engines of parts of a network, built for real by ONNX Runtime, and a backend that is wrong on purpose."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.core.errors import BuildError, ConfigError
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.engine.layer_side import EngineSide
from edgekd.export.layerwise import TOLERANCES, OnnxSide, Sides, TensorGraph, bisect_layers, compare_layers, onnx_pairs
from edgekd.targets import get_target

pytest.importorskip("onnxruntime")
FEEDS = {"input": np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)}
OPTIONS = BuildOptions(get_target("cpu"))


@pytest.fixture
def network(tmp_path):
    rng = np.random.default_rng(1)
    weights, nodes, last = [], [], "input"
    for layer in range(4):
        value = rng.standard_normal((3, 3, 3, 3)).astype(np.float32) / 5
        weights.append(numpy_helper.from_array(value, f"l{layer}.weight"))
        nodes.append(
            helper.make_node("Conv", [last, f"l{layer}.weight"], [f"c{layer}"], f"l{layer}/Conv", pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], f"l{layer}/Relu"))
        last = f"r{layer}"
    nodes.append(helper.make_node("ReduceMean", [last], ["logits"], "pool/ReduceMean", axes=[2, 3], keepdims=0))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])
    graph = helper.make_graph(nodes, "g", [image], [logits], weights)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxModel(FileRef.of(path), "fp32", "any", 17, "input", (3, 8, 8), "logits", 0), onnx.load(path)


def sides_of(model, proto, backend):
    graph = TensorGraph(proto)
    engine = EngineSide(model, proto, backend, OPTIONS)
    return Sides(OnnxSide(proto, "onnx"), engine, graph, onnx_pairs(graph, graph, FEEDS))


def test_engines_of_all_parts_give_what_the_graph_gives(network):
    found = compare_layers(sides_of(*network, BACKENDS["onnxruntime"]), [FEEDS], TOLERANCES["fp32"])
    assert (found.culprit, len(found.layers)) == (None, 9)
    assert max(layer.error.max_rel for layer in found.layers) < 1e-5
    assert all(layer.error.count > 0 for layer in found.layers)


class WrongFrom:
    """ONNX Runtime, but what comes from a node on is built with another weight."""

    name = "wrong"

    def __init__(self, weight):
        self._weight = weight
        self.builds = 0

    def available(self):
        return None

    def build(self, model, folder, options):
        self.builds += 1
        proto = onnx.load(model.file.path)
        for tensor in proto.graph.initializer:
            if tensor.name == self._weight:
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        onnx.save(proto, model.file.path)
        wrong = OnnxModel(
            FileRef.of(Path(model.file.path)), "fp32", "any", 17, "input", model.input_shape, model.output_name, 0
        )
        return BACKENDS["onnxruntime"].build(wrong, folder, options)

    def open(self, engine):
        return BACKENDS["onnxruntime"].open(engine)


@pytest.mark.parametrize("layer", range(4))
def test_the_layer_that_a_backend_gets_wrong_is_found_with_few_builds(network, layer):
    backend = WrongFrom(f"l{layer}.weight")
    found = bisect_layers(sides_of(*network, backend), [FEEDS], TOLERANCES["fp32"])
    assert found.culprit.pair.layer == f"l{layer}/Conv"
    assert backend.builds == found.runs <= 6  # of nine tensors


def test_a_refusal_of_the_backend_is_told(network):
    model, proto = network
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 3, 3, 3), np.nan, np.float32), "l0.weight"))
    with pytest.raises(BuildError, match="weight.s. hold NaN"):
        EngineSide(model, proto, BACKENDS["onnxruntime"], OPTIONS).values(["c0"], FEEDS)
    with pytest.raises(ConfigError, match="one input, the network has 2"):
        EngineSide(model, proto, BACKENDS["onnxruntime"], OPTIONS).values(["c0"], FEEDS | {"more": FEEDS["input"]})
