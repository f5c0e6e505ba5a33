import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import ExportError
from edgekd.export import run_onnx
from edgekd.export.opset import at_opset, opset_of


def graph_of(op, opset, *, inputs=("x",), outputs=("y",), constants=None, **attributes):
    node = helper.make_node(op, list(inputs), list(outputs), name="the-node", **attributes)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3, 4])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs if name]
    if op == "Shape":
        results = [helper.make_tensor_value_info("y", TensorProto.INT64, None)]
    tensors = [numpy_helper.from_array(np.array(item), name) for name, item in (constants or {}).items()]
    graph = helper.make_graph([node], "g", [value], results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


IMAGES = np.random.default_rng(0).normal(size=(3, 2, 3, 4)).astype(np.float32)
CHANNELS = {
    name: np.array(values, np.float32) for name, values in zip("sbmv", [[1, 2], [3, 4], [0, 1], [1, 4]], strict=True)
}
REDUCED = {
    name: {"inputs": ("x", "axes"), "constants": {"axes": [1, -1]}, "keepdims": 0} for name in ("Mean", "Max", "L2")
}
KEPT = [
    *[(f"Reduce{name}", options) for name, options in REDUCED.items()],
    ("ReduceMean", {"noop_with_empty_axes": 0}),
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("Add", {"inputs": ("x", "x")}),
    ("Pow", {"inputs": ("x", "two"), "constants": {"two": np.float32(2)}}),
    ("Pad", {"inputs": ("x", "pads"), "constants": {"pads": [0, 1, 0, 0, 0, 1, 0, 2]}}),
    ("Reshape", {"inputs": ("x", "shape"), "constants": {"shape": [0, -1]}}),
    ("Reshape", {"inputs": ("x", "shape"), "constants": {"shape": [0, -1]}, "allowzero": 0}),
    ("Shape", {"start": 0}),
    ("Split", {"inputs": ("x", "sizes"), "constants": {"sizes": [1, 3]}, "outputs": ("y", "z"), "axis": 3}),
    (
        "Resize",
        {
            "inputs": ("x", "", "scales"),
            "constants": {"scales": np.array([1, 1, 2, 2], np.float32)},
            "mode": "nearest",
            "antialias": 0,
            "keep_aspect_ratio_policy": "stretch",
        },
    ),
    ("BatchNormalization", {"inputs": ("x", "s", "b", "m", "v"), "constants": CHANNELS, "training_mode": 0}),
]
REFUSED = [
    ("Mish", 17, {}),
    ("LayerNormalization", 16, {"inputs": ("x", "s"), "constants": {"s": np.ones(4, np.float32)}}),
    ("HardSwish", 13, {}),
    ("ReduceMean", 17, {"inputs": ("x", "axes"), "constants": {"axes": [1]}, "noop_with_empty_axes": 1}),
    ("ReduceMean", 17, {"inputs": ("x", "computed")}),
    ("Pad", 17, {"inputs": ("x", "pads", "", "axes"), "constants": {"pads": [1, 1], "axes": [3]}}),
    ("Reshape", 13, {"inputs": ("x", "shape"), "constants": {"shape": [0, -1]}, "allowzero": 1}),
    ("Shape", 13, {"start": 1}),
    ("Shape", 13, {"end": 2}),
    ("Split", 17, {"outputs": ("y", "z"), "axis": 3, "num_outputs": 2}),
    (
        "Resize",
        17,
        {
            "inputs": ("x", "", "scales"),
            "constants": {"scales": np.array([2, 2], np.float32)},
            "axes": [2, 3],
        },
    ),
    ("LpPool", 17, {"kernel_shape": [2, 2]}),
    (
        "BatchNormalization",
        13,
        {
            "inputs": ("x", "s", "b", "m", "v"),
            "constants": CHANNELS,
            "outputs": ("y", "mean", "var"),
            "training_mode": 1,
        },
    ),
]


def test_opset_of_reads_the_default_domain():
    assert opset_of(graph_of("Relu", 17)) == 17


def test_opset_of_refuses_two_versions():
    proto = graph_of("Relu", 17)
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 18))
    with pytest.raises(ExportError, match="2 times"):
        opset_of(proto)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(("op", "options"), KEPT)
def test_at_opset_keeps_the_numbers(op, options, opset):
    proto = graph_of(op, 18, **options)
    converted = at_opset(proto, opset)
    assert (opset_of(proto), opset_of(converted)) == (18, opset)
    inferred = onnx.shape_inference.infer_shapes(converted, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred)
    before = run_onnx(proto.SerializeToString(), IMAGES, batch=3)
    np.testing.assert_array_equal(run_onnx(converted.SerializeToString(), IMAGES, batch=3), before)


def test_at_opset_moves_reduction_axes_into_the_attribute():
    converted = at_opset(graph_of("ReduceMean", 18, **REDUCED["Mean"]), 17)
    node = converted.graph.node[0]
    assert {item.name: helper.get_attribute_value(item) for item in node.attribute} == {"axes": [1, -1], "keepdims": 0}
    assert list(node.input) == ["x"]
    assert not converted.graph.initializer


@pytest.mark.parametrize(("op", "opset", "options"), REFUSED)
def test_at_opset_refuses_what_the_older_opset_lacks(op, opset, options):
    with pytest.raises(ExportError, match=rf"'the-node' \({op}\) .* opset.*: replace the layer"):
        at_opset(graph_of(op, 18, **options), opset)


@pytest.mark.parametrize(("found", "opset"), [(20, 17), (18, 12), (18, 20)])
def test_at_opset_refuses_distances_it_has_no_rules_for(found, opset):
    with pytest.raises(ExportError, match=f"opset {opset} was asked for, but the exporter made opset {found}"):
        at_opset(graph_of("Relu", found), opset)
