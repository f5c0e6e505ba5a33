"""Faults planted into networks, and the layer at fault is named; intact exports of every family have none."""

import itertools
import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import DataError, ExportError
from edgekd.export import export_onnx
from edgekd.export.layerwise import (
    TOLERANCES,
    OnnxSide,
    Sides,
    TensorGraph,
    Tolerance,
    TorchSide,
    bisect_layers,
    checked_feeds,
    compare_layers,
    onnx_pairs,
    reasons,
    torch_pairs,
)
from edgekd.export.layerwise.errors import ErrorSum
from edgekd.models import build, deploy, spec_for

pytest.importorskip("onnxruntime")
FP32 = TOLERANCES["fp32"]
FEEDS = {"input": np.random.default_rng(5).random((3, 4, 8, 8), dtype=np.float32)}
BLOCKS = 6


def conv(path, source, made):
    return helper.make_node("Conv", [source, f"{path}.weight"], [made], f"{path}/Conv", pads=[1, 1, 1, 1])


def network(blocks=BLOCKS):
    """Residual blocks: conv, relu, conv, add, relu; then a mean and a product."""
    rng = np.random.default_rng(0)
    weights, nodes, last = [], [], "input"
    for block in range(blocks):
        for half in (1, 2):
            value = rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6
            weights.append(numpy_helper.from_array(value, f"b{block}.conv{half}.weight"))
        names = [f"b{block}.{name}" for name in ("c1", "r1", "c2", "sum", "out")]
        nodes += [
            helper.make_node(
                "Conv", [last, f"b{block}.conv1.weight"], [names[0]], f"b{block}.conv1/Conv", pads=[1] * 4
            ),
            helper.make_node("Relu", [names[0]], [names[1]], f"b{block}/Relu"),
            helper.make_node(
                "Conv", [names[1], f"b{block}.conv2.weight"], [names[2]], f"b{block}.conv2/Conv", pads=[1] * 4
            ),
            helper.make_node("Add", [names[2], last], [names[3]], f"b{block}/Add"),
            helper.make_node("Relu", [names[3]], [names[4]], f"b{block}/Relu_2"),
        ]
        last = names[4]
    weights.append(numpy_helper.from_array(rng.standard_normal((4, 5)).astype(np.float32), "head.weight"))
    nodes += [
        helper.make_node("ReduceMean", [last], ["mean"], "pool/ReduceMean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "head.weight"], ["logits"], "head/MatMul"),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 4, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 5])
    graph = helper.make_graph(nodes, "g", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def node_of(proto, name):
    return next(node for node in proto.graph.node if node.name == name)


def change_weight(proto, name):
    tensor = next(one for one in proto.graph.initializer if one.name == name)
    value = numpy_helper.to_array(tensor).copy()
    value.flat[3] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(value, name))


def change_pads(proto, name, pads):
    next(item for item in node_of(proto, name).attribute if item.name == "pads").ints[:] = pads


def sides_of(first, second, feeds=FEEDS):
    graphs = TensorGraph(first), TensorGraph(second)
    pairs = onnx_pairs(*graphs, feeds)
    return Sides(OnnxSide(first, "first"), OnnxSide(second, "second"), graphs[1], pairs), graphs[0]


def changed(change, *words):
    proto = network()
    change(proto, *words)
    return proto


def test_equal_networks_have_no_culprit():
    sides, _ = sides_of(network(), network())
    found = compare_layers(sides, [FEEDS], FP32)
    assert (found.culprit, found.culprits, found.runs) == (None, (), 1)
    assert [layer.error.max_abs for layer in found.layers] == [0.0] * (5 * BLOCKS + 2)
    assert bisect_layers(sides, [FEEDS], FP32).culprit is None


@pytest.mark.parametrize("name", [node.name for node in network().graph.node if node.op_type == "Conv"])
def test_a_changed_weight_is_found_wherever_it_is(name):
    weight = f"{name.removesuffix('/Conv')}.weight"
    sides, reference = sides_of(network(), changed(change_weight, weight))
    whole, bisected = compare_layers(sides, [FEEDS], FP32), bisect_layers(sides, [FEEDS], FP32)
    for found in (whole, bisected):
        assert [layer.pair.layer for layer in found.culprits] == [name]
    assert bisected.runs <= math.ceil(math.log2(5 * BLOCKS + 2)) + 4
    assert len(bisected.layers) < len(whole.layers) / 2
    (reason,) = reasons(whole.culprit, sides.graph, reference)
    assert f"its constant '{weight}' differs in 1 of 144 values, by at most 0.5" in reason


def branches(bias):
    """A short branch whose bias may be wrong, and beside it a long one that is fine and comes later."""
    nodes = [helper.make_node("Add", ["input", "bias"], ["short"], "short/Add")]
    names = ["input", *(f"long{step}" for step in range(8))]
    nodes += [helper.make_node("Sigmoid", [a], [b], f"{b}/Sigmoid") for a, b in itertools.pairwise(names)]
    nodes.append(helper.make_node("Add", ["short", names[-1]], ["out"], "join/Add"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4, 8, 8]) for name in ("input", "out")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(np.float32(bias), "bias")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_bisection_follows_the_branch_that_went_wrong():
    sides, _ = sides_of(branches(1.0), branches(2.0))
    assert bisect_layers(sides, [FEEDS], FP32).culprit.pair.layer == "short/Add"


def test_weights_in_nodes_are_compared_too():
    def moved(proto):
        index = next(i for i, one in enumerate(proto.graph.initializer) if one.name == "b1.conv1.weight")
        tensor = proto.graph.initializer.pop(index)
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        return proto

    sides, reference = sides_of(moved(network()), moved(changed(change_weight, "b1.conv1.weight")))
    found = bisect_layers(sides, [FEEDS], FP32)
    assert found.culprit.pair.layer == "b1.conv1/Conv"
    assert "'b1.conv1.weight' differs in 1 of 144 values" in reasons(found.culprit, sides.graph, reference)[0]


def test_what_follows_the_culprit_inherits_and_what_goes_before_is_fine():
    sides, _ = sides_of(network(), changed(change_weight, "b3.conv2.weight"))
    found = compare_layers(sides, [FEEDS], FP32)
    status = {layer.pair.layer: layer.status for layer in found.layers}
    assert status["b3.conv1/Conv"] == status["b2/Relu_2"] == "fine"
    assert status["b3.conv2/Conv"] == "culprit"
    assert status["b3/Add"] == status["head/MatMul"] == "inherits"
    assert found.culprit.inputs == ("b3.r1",)


def test_two_faults_are_two_culprits_where_the_second_stands_on_its_own():
    second = network()
    second.graph.node.append(helper.make_node("Neg", ["b0.c1"], ["spare"], "spare/Neg"))
    first = network()
    first.graph.node.append(helper.make_node("Abs", ["b0.c1"], ["spare"], "spare/Abs"))
    change_weight(second, "b4.conv1.weight")
    sides, reference = sides_of(first, second)
    found = compare_layers(sides, [FEEDS], FP32)
    assert [layer.pair.layer for layer in found.culprits] == ["b4.conv1/Conv", "spare/Neg"]
    assert reasons(found.culprits[1], sides.graph, reference) == ("it is Abs on the first side and Neg on the second",)


@pytest.mark.parametrize("pads", [[2, 2, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2]])
def test_a_wrong_pad_is_found_with_and_without_another_shape(pads):
    second = network()
    change_pads(second, "b2.conv1/Conv", pads)
    if sum(pads) != 4:
        change_pads(second, "b2.conv2/Conv", [2 - pad for pad in pads])
    sides, reference = sides_of(network(), second)
    for found in (compare_layers(sides, [FEEDS], FP32), bisect_layers(sides, [FEEDS], FP32)):
        assert found.culprit.pair.layer == "b2.conv1/Conv"
        text = " ".join(reasons(found.culprit, sides.graph, reference))
        assert f"its attribute pads is [1, 1, 1, 1] on the first side and {pads} on the second" in text
        assert ("another shape" in text) is (sum(pads) != 4)


def with_a_detour(factor):
    """Multiply a tensor by a factor and divide it again: float32 does not mind."""
    proto = network()
    nodes = list(proto.graph.node)
    place = nodes.index(node_of(proto, "b3.conv1/Conv"))
    nodes[place].input[0] = "shrunk"
    nodes[place:place] = [
        helper.make_node("Mul", ["b2.out", "big.weight"], ["grown"], "grow/Mul"),
        helper.make_node("Mul", ["grown", "small.weight"], ["shrunk"], "shrink/Mul"),
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    for name, value in (("big.weight", factor), ("small.weight", 1 / factor)):
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    return proto


def test_an_fp16_overflow_names_its_layer_and_says_so():
    first = with_a_detour(6e4)
    assert compare_layers(sides_of(network(), first)[0], [FEEDS], FP32).culprit is None
    sides, reference = sides_of(first, halved(first))
    for compare in (compare_layers, bisect_layers):
        found = compare(sides, [FEEDS], TOLERANCES["fp16"])
        assert [layer.pair.layer for layer in found.culprits] == ["grow/Mul"]
        text = " ".join(reasons(found.culprit, sides.graph, reference))
        assert "values are NaN or infinite" in text
        assert "fp16 ends at 65504: keep this layer in fp32" in text


def halved(proto):
    """Type every float of a network as fp16, but for its input and output."""
    typed = onnx.ModelProto()
    typed.CopyFrom(proto)
    for tensor in typed.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in typed.graph.node:
        node.input[:] = ["input/half" if name == "input" else name for name in node.input]
        node.output[:] = ["logits/half" if name == "logits" else name for name in node.output]
    typed.graph.node.insert(0, helper.make_node("Cast", ["input"], ["input/half"], "in/Cast", to=TensorProto.FLOAT16))
    typed.graph.node.append(helper.make_node("Cast", ["logits/half"], ["logits"], "out/Cast", to=TensorProto.FLOAT))
    return typed


def test_a_sound_fp16_network_is_within_its_tolerance_and_not_equal():
    sides, _ = sides_of(network(), halved(network()))
    found = compare_layers(sides, [FEEDS], TOLERANCES["fp16"])
    assert found.culprit is None
    assert 1e-5 < max(layer.error.max_rel for layer in found.layers) < 2e-2
    assert min(layer.error.snr_db for layer in found.layers) > 40
    assert compare_layers(sides, [FEEDS], Tolerance(1e-6)).culprit is not None


@pytest.mark.parametrize("part_bytes", [1, 3000, 10**9])
def test_parts_hold_little_and_change_nothing(part_bytes):
    sides, _ = sides_of(network(), changed(change_weight, "b3.conv2.weight"))
    whole = compare_layers(sides, [FEEDS], FP32)
    held = []
    spied = Sides(_Spy(sides.reference, held), sides.candidate, sides.graph, sides.pairs)
    found = compare_layers(spied, [FEEDS], FP32, part_bytes=part_bytes)
    assert [(layer.pair, layer.error, layer.status) for layer in found.layers] == [
        (layer.pair, layer.error, layer.status) for layer in whole.layers
    ]
    largest = 3 * 4 * 8 * 8 * 4
    assert max(held) <= max(part_bytes, largest)
    assert found.runs == len(held)


class _Spy:
    name = "spy"

    def __init__(self, side, held):
        self._side, self._held = side, held

    def values(self, tensors, feeds):
        found = self._side.values(tensors, feeds)
        self._held.append(sum(array.nbytes for array in found.values()))
        return found


def test_batches_add_up():
    sides, _ = sides_of(network(), changed(change_weight, "b3.conv2.weight"))
    batches = [{"input": FEEDS["input"][index : index + 1]} for index in range(3)]
    whole = compare_layers(sides, [FEEDS], FP32).layers[-1].error
    parts = compare_layers(sides, batches, FP32).layers[-1].error
    assert (parts.max_abs, parts.count) == (pytest.approx(whole.max_abs, rel=1e-5), whole.count)
    assert (parts.rms_rel, parts.cosine) == pytest.approx((whole.rms_rel, whole.cosine), rel=1e-5)


def renamed(proto, *, nodes):
    """Give every tensor another name, and every node too where asked for."""
    again = onnx.ModelProto()
    again.CopyFrom(proto)
    for index, node in enumerate(again.graph.node):
        node.input[:] = [
            f"t/{name}" if name not in ("input",) and "weight" not in name else name for name in node.input
        ]
        node.output[:] = [f"t/{name}" for name in node.output]
        node.name = f"n{index}" if nodes else node.name
    again.graph.output[0].name = "t/logits"
    return again


@pytest.mark.parametrize(("nodes", "by"), [(False, "node"), (True, "position")])
def test_tensors_of_other_names_are_matched_by_node_and_by_position(nodes, by):
    second = renamed(changed(change_weight, "b2.conv1.weight"), nodes=nodes)
    sides, reference = sides_of(network(), second)
    assert {pair.by for pair in sides.pairs} == {by}
    assert [pair.candidate for pair in sides.pairs] == [f"t/{pair.reference}" for pair in sides.pairs]
    found = compare_layers(sides, [FEEDS], FP32)
    assert found.culprit.pair.reference == "b2.c1"
    assert "'b2.conv1.weight' differs" in reasons(found.culprit, sides.graph, reference)[0]


def test_position_skips_what_only_one_side_has():
    second = renamed(network(), nodes=True)
    second.graph.node.insert(1, helper.make_node("Identity", ["t/b0.c1"], ["t/copy"], "extra"))
    second.graph.node[2].input[0] = "t/copy"
    sides, _ = sides_of(network(), second)
    assert "t/copy" not in {pair.candidate for pair in sides.pairs}
    assert len(sides.pairs) == 5 * BLOCKS + 2
    assert compare_layers(sides, [FEEDS], FP32).culprit is None


def test_networks_without_anything_in_common_are_refused():
    node = helper.make_node("Sigmoid", ["input"], ["s"], "s")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 4, 8, 8])],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, ["B", 4, 8, 8])],
    )
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    sides, _ = sides_of(network(), other)
    for compare in (compare_layers, bisect_layers):
        with pytest.raises(DataError, match="no tensor in common"):
            compare(sides, [FEEDS], FP32)


def test_errors_of_known_tensors():
    total = ErrorSum()
    total.add(np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    error = total.result()
    scale = math.sqrt(25 / 2)
    assert (error.max_abs, error.max_rel, error.rms_rel) == pytest.approx((1.0, 1 / scale, math.sqrt(0.5) / scale))
    assert error.snr_db == pytest.approx(10 * math.log10(25 / 1))
    assert error.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert (error.largest, error.not_finite, error.count) == (4.0, 0, 2)


@pytest.mark.parametrize(
    ("first", "second", "max_abs"),
    [
        ([np.inf, 1], [np.inf, 1], 0.0),
        ([1, 1], [np.inf, 1], np.inf),
        ([np.nan, 1], [np.nan, 1], 0.0),
        ([1, 2], [np.nan, 2], np.inf),
    ],
)
def test_values_that_are_not_finite_count_where_they_differ(first, second, max_abs):
    total = ErrorSum()
    total.add(np.array(first, np.float32), np.array(second, np.float32))
    assert total.result().max_abs == max_abs
    assert total.result().is_within(FP32) is (max_abs == 0.0)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({"a": np.zeros((1, 4, 8, 8), np.float32), "b": np.zeros(1)}, "takes input, the inputs given are a, b"),
        ({"input": np.zeros((1, 4, 8, 8))}, "is float64 .* takes float32"),
        ({"input": np.zeros((1, 4, 8, 9), np.float32)}, r"\[1, 4, 8, 9\], the network takes float32 \[any, 4, 8, 8\]"),
        ({}, "the inputs given are none"),
    ],
)
def test_wrong_inputs_are_refused(feeds, says):
    with pytest.raises(DataError, match=says):
        checked_feeds(TensorGraph(network()), feeds)


def test_a_network_that_cannot_run_is_one_error():
    broken = changed(change_pads, "b0.conv1/Conv", [0, 0, 0, 0])
    with pytest.raises(ExportError, match="ONNX Runtime cannot run it"):
        OnnxSide(broken, "it").values(["logits"], FEEDS)


IMAGE = {"in_channels": 3, "num_classes": 10, "resolution": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
TEXT = {"in_channels": 0, "num_classes": 4, "resolution": 16, "mean": (), "std": (), "vocabulary": 100}
FAMILIES = [
    ("resnet", 20, 8, IMAGE), ("mobilenetv2", 7, 8, IMAGE), ("vgg", 8, 8, IMAGE), ("repvgg", 4, 8, IMAGE),
    ("wrn", 10, 8, IMAGE), ("fcn", 8, 8, IMAGE), ("bert", 2, 32, TEXT),
]  # fmt: skip


def torch_network(family, depth, width, facts, path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        spec = spec_for(family, depth=depth, width=width, **facts)
        module = deploy(build(spec).eval())
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.5, 0.5)
                layer.running_var.uniform_(0.5, 2.0)
        export_onnx(module, path, input_shape=spec.input_shape)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 100, (2, *spec.input_shape))
    inputs = tokens if family == "bert" else rng.random((2, *spec.input_shape), dtype=np.float32)
    return module, onnx.load(path), {"input": inputs}


@pytest.mark.parametrize(("family", "depth", "width", "facts"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_every_family_equals_its_export_in_every_module(family, depth, width, facts, tmp_path):
    module, proto, feeds = torch_network(family, depth, width, facts, tmp_path / "net.onnx")
    graph = TensorGraph(proto)
    pairs, modules = torch_pairs(module, graph, feeds)
    found = compare_layers(Sides(TorchSide(module, modules), OnnxSide(proto, "onnx"), graph, pairs), [feeds], FP32)
    assert found.culprit is None
    assert len(found.layers) >= 12
    convolutions = sum(node.op_type == "Conv" for node in proto.graph.node)
    assert sum(layer.pair.op == "Conv" for layer in found.layers) == convolutions


def test_a_fault_of_an_export_is_found_by_its_torch_module(tmp_path):
    module, proto, feeds = torch_network("resnet", 20, 8, IMAGE, tmp_path / "net.onnx")
    node = node_of(proto, "net.layer2.1.conv1/Conv")
    change_weight(proto, node.input[1])
    graph = TensorGraph(proto)
    pairs, modules = torch_pairs(module, graph, feeds)
    sides = Sides(TorchSide(module, modules), OnnxSide(proto, "onnx"), graph, pairs)
    for found in (compare_layers(sides, [feeds], FP32), bisect_layers(sides, [feeds], FP32)):
        assert found.culprit.pair.layer == "net.layer2.1.conv1/Conv"
        assert modules[found.culprit.pair.candidate] == "net.layer2.1.bn1"
