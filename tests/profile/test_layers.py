"""Layers of real networks on ONNX Runtime, and names as TensorRT writes them."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import BuildError, DataError
from edgekd.export import export_onnx, module_of
from edgekd.models import build, spec_for
from edgekd.profile.layers import by_module, layers_from_trtexec, measured_layer, nodes_in_name
from edgekd.profile.ort_layers import layers_from_ort_profile, ort_layers
from edgekd.profile.trtexec import export_from_text

pytest.importorskip("onnxruntime")
COMPUTE = ("Conv", "Gemm", "MatMul")


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("net.layer1.0.conv1/Conv", "net.layer1.0.conv1"),
        ("net.layer1.0/Relu_2", "net.layer1.0"),
        ("/conv1/Conv", "conv1"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/net/layer1/layer1.0/conv1/Conv", "net.layer1.0.conv1"),
        ("/model/blocks/blocks.3/attn/qkv/MatMul", "model.blocks.3.attn.qkv"),
        ("Relu_3", ""),
        ("slice_2", ""),
        ("/Add", ""),
    ],
)
def test_module_of_a_node(node, module):
    assert module_of(node) == module


@pytest.mark.parametrize(
    ("layer", "nodes"),
    [
        ("a/Conv + a/Relu", ("a/Conv", "a/Relu")),
        ("a.weight + QuantizeLinear_1 + a/Conv", ("a/Conv",)),
        ("PWN(PWN(a/Sigmoid), a/Mul)", ("a/Sigmoid", "a/Mul")),
        ("{ForeignNode[a/MatMul...b/Add_2]}", ("a/MatMul", "b/Add_2")),
        ("Reformatting CopyNode for Input Tensor 0 to a/Conv + a/Relu", ("a/Conv", "a/Relu")),
        ("a/Conv || b/Conv", ("a/Conv", "b/Conv")),
        ("__myl_Fc_Add_myl0_3", ()),
        ("(Unnamed Layer* 5) [Shuffle]", ()),
    ],
)
def test_nodes_in_the_name_of_a_fused_layer(layer, nodes):
    assert nodes_in_name(layer) == nodes


def test_names_without_a_path_are_found_when_they_are_known():
    assert nodes_in_name("node_conv2d + node_relu + bias", {"node_conv2d", "node_relu"}) == ("node_conv2d", "node_relu")


def test_trtexec_profile_is_joined_with_layer_information():
    rows = [
        {"count": 10},
        {"name": "__myl_0", "averageMs": 3.0, "medianMs": 2.0, "timeMs": 30.0, "percentage": 75.0},
        {"name": "fc/Gemm", "averageMs": 1.0, "medianMs": 0.5, "timeMs": 10.0, "percentage": 25.0},
    ]
    layers = [{"Name": "__myl_0", "LayerType": "kgen", "Metadata": "[ONNX Layer: a/Conv]\x1f[ONNX Layer: b/Relu]"}]
    profile = export_from_text(json.dumps(rows), "p")
    info = export_from_text(json.dumps({"Layers": layers}), "l")
    joined = layers_from_trtexec(profile, info)
    assert [(one.time_ms, one.share, one.kind, one.nodes, one.modules) for one in joined] == [
        (2.0, 0.8, "kgen", ("a/Conv", "b/Relu"), ("a", "b")),
        (0.5, 0.2, "", ("fc/Gemm",), ("fc",)),
    ]
    assert layers_from_trtexec(profile)[0].modules == ()
    assert layers_from_trtexec(profile, info, known=["a/Conv", "fc/Gemm"])[0].nodes == ("a/Conv",)


def test_layers_of_one_module_are_added_and_shared_ones_are_not_divided():
    layers = [
        measured_layer("1", 1.0, 10.0, "Conv", ["a/Conv"]),
        measured_layer("2", 2.0, 10.0, "Add", ["a/Add"]),
        measured_layer("3", 6.0, 10.0, "Conv", ["a/Conv_2", "b/Relu"]),
        measured_layer("4", 1.0, 10.0, "Copy", []),
    ]
    assert [(one.module, one.time_ms, one.layers) for one in by_module(layers)] == [
        ("a + b", 6.0, 1),
        ("a", 3.0, 2),
        ("", 1.0, 1),
    ]
    assert sum(one.share for one in by_module(layers)) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Write a network of the zoo and return its path and spec."""

    def write(family, depth, width, **options):
        facts = {"in_channels": 3, "num_classes": 10, "resolution": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3} | options
        spec = spec_for(family, depth=depth, width=width, **facts)
        path = tmp_path_factory.mktemp(family) / "net.onnx"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            export_onnx(build(spec).eval(), path, input_shape=spec.input_shape, batch=1)
        return path, spec

    return write


@pytest.mark.parametrize(("family", "depth", "width"), [("resnet", 20, 16), ("mobilenetv2", 7, 16), ("vgg", 8, 16)])
def test_every_convolution_of_a_real_network_is_found_again_once(exported, family, depth, width):
    path, spec = exported(family, depth, width)
    layers = ort_layers(path, {"input": np.zeros((1, *spec.input_shape), np.float32)}, runs=5)
    compute = [node.name for node in onnx.load(path).graph.node if node.op_type in COMPUTE]
    own = Counter(
        node for layer in layers if not layer.kind.startswith("Reorder") for node in layer.nodes if node in set(compute)
    )
    assert own == Counter(compute)
    assert sum(layer.share for layer in layers) == pytest.approx(1.0)
    for layer in layers:
        if layer.kind in ("Conv", "FusedConv"):
            assert sum(node in set(compute) for node in layer.nodes) == 1


def test_a_residual_add_belongs_to_the_convolution_that_computes_it(exported):
    path, spec = exported("resnet", 20, 16)
    layers = ort_layers(path, {"input": np.zeros((1, *spec.input_shape), np.float32)}, runs=5)
    holders = [layer for layer in layers if "net.layer1.0/Add" in layer.nodes and layer.kind == "Conv"]
    assert [layer.modules for layer in holders] == [("net.layer1.0.conv2", "net.layer1.0")]


def test_the_slowest_module_is_named():
    import tempfile
    from pathlib import Path

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.small = torch.nn.Conv2d(3, 8, 1)
            self.heavy = torch.nn.Conv2d(8, 64, 7, padding=3)
            self.head = torch.nn.Linear(64, 4)

        def forward(self, x):
            return self.head(torch.relu(self.heavy(self.small(x))).mean((2, 3)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export_onnx(Net().eval(), path, input_shape=(3, 48, 48), batch=1)
        layers = ort_layers(path, {"input": np.zeros((1, 3, 48, 48), np.float32)}, runs=10)
    slowest = by_module(layers)[0]
    assert "heavy" in slowest.module
    assert slowest.share > 0.5


def test_the_profile_leaves_out_runs_of_the_warm_up():
    events = [
        {"cat": "Node", "name": "a_kernel_time", "dur": dur, "args": {"op_name": "Conv"}} for dur in (900, 10, 20, 30)
    ]
    events += [{"cat": "Session", "name": "model_run", "dur": 5, "args": {}}]
    (layer,) = layers_from_ort_profile(json.dumps(events), {"a": ("m/Conv",)}, warmup=1)
    assert (layer.time_ms, layer.modules, layer.kind) == (0.02, ("m",), "Conv")
    with pytest.raises(DataError, match="no node that ran more than 4 times"):
        layers_from_ort_profile(json.dumps(events), {}, warmup=4)
    with pytest.raises(DataError, match="not a profile of ONNX Runtime: KeyError"):
        layers_from_ort_profile(json.dumps([{"cat": "Node"}]), {}, warmup=0)


def test_wrong_inputs_are_one_error(exported):
    path, _ = exported("vgg", 8, 16)
    with pytest.raises(BuildError, match="cannot time the layers"):
        ort_layers(path, {"other": np.zeros((1, 3, 32, 32), np.float32)}, runs=1)


def test_two_convolutions_that_are_added_and_nodes_without_names_are_found_once(tmp_path):
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((8, 8, 3, 3)).astype(np.float32), name) for name in "abc"]
    nodes = [
        helper.make_node("Conv", ["input", "a"], ["x"], "first/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "b"], ["y"], "left/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Constant", [], ["c"], value=weights[2]),
        helper.make_node("Conv", ["x", "c"], ["z"], "right/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["y", "z"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["out"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 16, 16]) for name in ("input", "out")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights[:2])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "n.onnx")
    layers = ort_layers(tmp_path / "n.onnx", {"input": np.ones((1, 8, 16, 16), np.float32)}, runs=3)
    made = [layer.nodes for layer in layers if layer.kind == "Conv"]
    assert sorted(node for nodes in made for node in nodes) == ["first/Conv", "left/Conv", "out", "right/Conv", "sum"]
    assert {len(nodes) for nodes in made} == {1, 3}
