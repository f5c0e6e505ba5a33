import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from edgekd.core.errors import ConfigError, DataError, ExportError
from edgekd.export import Form, parity, read_content, read_proto, require_parity, run_onnx, write_model
from edgekd.precision import kept_fp32, to_fp16

SHAPE = (3, 8, 8)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def types_of(graph):
    values = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return values | {tensor.name: tensor.data_type for tensor in graph.initializer}


def node_types(proto):
    """Float types that each node reads and writes, casts left out."""
    types = types_of(proto.graph)
    return {
        node.name: {types[name] for name in (*node.input, *node.output) if name and types[name] in FLOATS}
        for node in proto.graph.node
        if node.op_type != "Cast"
    }


@pytest.fixture(scope="module")
def half(model, tmp_path_factory):
    return to_fp16(model, tmp_path_factory.mktemp("fp16") / "net.onnx")


def test_fp16_types_every_node_and_keeps_float32_outside(model, half):
    proto = read_proto(half)
    assert (half.precision, half.flavour, half.opset, half.batch) == ("fp16", "any", 17, 0)
    assert half.parents == (model.digest,)
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert kept_fp32(half) == {}
    assert set(map(frozenset, node_types(proto).values())) == {frozenset({TensorProto.FLOAT16})}
    assert [node.op_type for node in proto.graph.node].count("Cast") == 2
    assert half.file.size_bytes < 0.75 * model.file.size_bytes


def test_fp16_is_close_to_torch_on_two_independent_runtimes(net, half, calibration):
    require_parity(parity(net, half, calibration))
    with torch.no_grad():
        expected = net(torch.from_numpy(calibration)).numpy()
    by_reference = ReferenceEvaluator(read_proto(half)).run(None, {"input": calibration})[0]
    assert by_reference.dtype == np.float32
    np.testing.assert_allclose(by_reference, expected, atol=2e-2 * np.sqrt((expected**2).mean()))
    assert np.abs(by_reference - expected).max() > 0


def test_fp16_agrees_with_another_converter(model, half, calibration):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    other = convert_float_to_float16(read_proto(model), keep_io_types=True)
    theirs = run_onnx(other.SerializeToString(), calibration, batch=8)
    ours = run_onnx(read_content(half), calibration, batch=8)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_fp16_gives_the_same_bytes_again(model, half, tmp_path):
    assert to_fp16(model, tmp_path / "again.onnx").file.sha256 == half.file.sha256


class Sensitive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(192), nn.Linear(192, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.fc(self.norm(images.flatten(1))) ** 2, dim=1)


def test_fp16_keeps_sensitive_operators_in_fp32(exported, tmp_path):
    half = to_fp16(exported(Sensitive()), tmp_path / "half.onnx")
    reasons = kept_fp32(half)
    types = node_types(read_proto(half))
    kinds = {node.name: node.op_type for node in read_proto(half).graph.node}
    assert {kinds[name] for name in reasons} >= {"LayerNormalization", "Softmax"}
    assert all(types[name] == {TensorProto.FLOAT} for name in reasons)
    gemm = next(name for name, kind in kinds.items() if kind == "Gemm")
    assert types[gemm] == {TensorProto.FLOAT16}
    assert "Softmax loses accuracy or overflows in fp16" in reasons.values()


@pytest.mark.parametrize(("side", "is_kept"), [(8, False), (9, True)])
def test_fp16_keeps_means_over_large_maps_in_fp32(tmp_path, side, is_kept):
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["logits"], name="flat"),
    ]
    half = to_fp16(handmade(nodes, tmp_path, shape=(3, side, side), classes=3), tmp_path / "half.onnx")
    expected = {"pool": "GlobalAveragePool over 81 elements, fp16 is kept up to 64"} if is_kept else {}
    assert kept_fp32(half) == expected


def handmade(nodes, tmp_path, *, shape=(1, 1, 4), classes=4, constants=None):
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *shape])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])]
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return write_model(proto, tmp_path / "fp32.onnx", Form("fp32", "any", (), {}))


FLAT = helper.make_node("Flatten", ["input"], ["flat"], name="flat")


def node(op, inputs, output, name, **attributes):
    return helper.make_node(op, list(inputs), [output], name=name, **attributes)


def test_fp16_keeps_a_node_whose_constant_is_out_of_range(tmp_path):
    nodes = [FLAT, node("Mul", ["flat", "big"], "m", "mul"), node("Div", ["m", "big"], "logits", "div")]
    half = to_fp16(handmade(nodes, tmp_path, constants={"big": np.float32(1e5)}), tmp_path / "half.onnx")
    reason = "constant big reaches 1e+05, fp16 ends at 65504"
    assert kept_fp32(half) == {"mul": reason, "div": reason}
    image = np.full((2, 1, 1, 4), 0.75, np.float32)
    np.testing.assert_allclose(run_onnx(read_content(half), image, batch=2), np.full((2, 4), 0.75), rtol=1e-3)


def test_fp16_keeps_a_divisor_that_would_become_zero(tmp_path):
    nodes = [FLAT, node("Mul", ["flat", "tiny"], "m", "mul"), node("Div", ["m", "tiny"], "logits", "div")]
    half = to_fp16(handmade(nodes, tmp_path, constants={"tiny": np.float32(1e-9)}), tmp_path / "half.onnx")
    assert kept_fp32(half)["div"] == "constant tiny holds 1e-09, which is 0 in fp16"
    image = np.full((2, 1, 1, 4), 0.75, np.float32)
    np.testing.assert_allclose(run_onnx(read_content(half), image, batch=2), np.full((2, 4), 0.75), rtol=1e-3)


def test_fp16_refuses_activations_out_of_range(tmp_path):
    nodes = [
        FLAT,
        node("Mul", ["flat", "large"], "a", "first"),
        node("Mul", ["a", "large"], "b", "second"),
        node("Div", ["b", "large"], "c", "third"),
        node("Div", ["c", "large"], "logits", "fourth"),
    ]
    with pytest.raises(ExportError, match="fp16 overflows: .* logits are NaN or infinite"):
        to_fp16(handmade(nodes, tmp_path, constants={"large": np.float32(6e4)}), tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()


def test_fp16_refuses_activations_that_only_real_images_drive_out_of_range(tmp_path):
    """Every random image has a channel below 0.999; the ones image does not."""
    nodes = [
        FLAT,
        node("ReduceMin", ["flat"], "least", "min", axes=[1], keepdims=1),
        node("Sub", ["least", "edge"], "over", "sub"),
        node("Relu", ["over"], "positive", "relu"),
        node("Mul", ["positive", "large"], "a", "first"),
        node("Mul", ["a", "large"], "b", "second"),
        node("Div", ["b", "large"], "c", "third"),
        node("Add", ["c", "flat"], "logits", "fourth"),
    ]
    constants = {"edge": np.float32(0.99), "large": np.float32(6e4)}
    model = handmade(nodes, tmp_path, constants=constants)
    to_fp16(model, tmp_path / "half.onnx")
    ones = np.ones((1, 1, 1, 4), np.float32)
    with pytest.raises(ExportError, match="fp16 overflows"):
        to_fp16(model, tmp_path / "half.onnx", inputs=ones)
    with pytest.raises(DataError, match=r"got float32 \[1, 4\]"):
        to_fp16(model, tmp_path / "half.onnx", inputs=ones.reshape(1, 4))


def test_fp16_refuses_lost_accuracy_with_the_numbers(tmp_path):
    nodes = [FLAT, node("Add", ["flat", "far"], "a", "up"), node("Sub", ["a", "far"], "logits", "down")]
    with pytest.raises(ExportError, match=r"fp16 outputs are off by 0\.\d+ where fp32 logits"):
        to_fp16(handmade(nodes, tmp_path, constants={"far": np.float32(2048)}), tmp_path / "half.onnx")


def test_fp16_handles_shared_values_casts_and_resize_scales(tmp_path):
    """A value read by fp16 and fp32 nodes, a cast to float, float-only inputs, an output that others read."""
    nodes = [
        node("Resize", ["input", "", "scales"], "big", "resize", mode="nearest"),
        node("Flatten", ["big"], "flat", "flat"),
        node("Exp", ["flat"], "e", "exp"),
        node("Shape", ["flat"], "shape", "shape"),
        node("Gather", ["shape", "one"], "count", "gather"),
        node("Cast", ["count"], "float_count", "cast", to=TensorProto.FLOAT),
        node("Div", ["e", "float_count"], "share", "div"),
        node("Add", ["share", "flat"], "sum", "add"),
        node("Relu", ["sum"], "logits", "relu"),
    ]
    constants = {"scales": np.array([1, 1, 1, 2], np.float32), "one": np.int64(1)}
    model = handmade(nodes, tmp_path, constants=constants, classes=8)
    half = to_fp16(model, tmp_path / "half.onnx")
    types = node_types(read_proto(half))
    assert kept_fp32(half).keys() == {"exp"}
    assert types["exp"] == {TensorProto.FLOAT}
    assert types["div"] == types["add"] == types["relu"] == {TensorProto.FLOAT16}
    image = np.random.default_rng(0).random((5, 1, 1, 4), dtype=np.float32)
    big = np.repeat(image.reshape(5, 4), 2, axis=1)
    found = run_onnx(read_content(half), image, batch=5)
    np.testing.assert_allclose(found, np.exp(big) / 8 + big, rtol=2e-3)


def test_fp16_refuses_subgraphs_and_foreign_operators(tmp_path):
    branch = helper.make_graph(
        [node("Identity", ["flat"], "inner", "inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["n", 4])],
    )
    nodes = [FLAT, node("If", ["yes"], "logits", "choice", then_branch=branch, else_branch=branch)]
    with pytest.raises(ExportError, match=r"'choice' \(If\) has a subgraph"):
        to_fp16(handmade(nodes, tmp_path, constants={"yes": np.bool_(True)}), tmp_path / "half.onnx")


def test_fp16_needs_an_fp32_model(half, model, tmp_path):
    with pytest.raises(ConfigError, match="not from fp16"):
        to_fp16(half, tmp_path / "again.onnx")
    with pytest.raises(ConfigError, match="carries no list"):
        kept_fp32(model)


def test_nodes_without_names_get_one_each(tmp_path):
    """A reason to stay in fp32 is kept by name: it must not hold for all that have none."""
    unnamed = [node("Relu", ["flat"], "a", ""), node("Softmax", ["a"], "b", "")]
    half = to_fp16(handmade([FLAT, *unnamed, node("Relu", ["b"], "logits", "Relu_1")], tmp_path), tmp_path / "h.onnx")
    (kept,) = kept_fp32(half)
    written = {each.name: each.op_type for each in read_proto(half).graph.node if each.op_type != "Cast"}
    assert len(written) == 4 and written[kept] == "Softmax"
    assert written["Relu_1"] == written["Relu_1_"] == "Relu"


def test_fp16_works_with_a_fixed_batch(exported, net, tmp_path):
    half = to_fp16(exported(net, batch=3), tmp_path / "half.onnx")
    assert half.batch == 3
    onnx.checker.check_model(read_proto(half), full_check=True)


def test_probabilities_may_be_off_by_points_not_by_a_share_of_their_size(tmp_path):
    """A sigmoid far below 0 gives about 1e-7, of which fp16 keeps nothing; that is no loss, half a point would be."""
    tiny = [FLAT, node("Add", ["flat", "low"], "a", "down"), node("Sigmoid", ["a"], "logits", "last")]
    low = {"low": np.float32(-16.0)}
    assert to_fp16(handmade(tiny, tmp_path, constants=low), tmp_path / "half.onnx").precision == "fp16"
    lost = [FLAT, node("Add", ["flat", "far"], "a", "up"), node("Sub", ["a", "far"], "b", "down")]
    lost.append(node("Sigmoid", ["b"], "logits", "last"))
    with pytest.raises(ExportError, match="where fp32 gives probabilities .limit 0.05."):
        to_fp16(handmade(lost, tmp_path, constants={"far": np.float32(4096.0)}), tmp_path / "other.onnx")
