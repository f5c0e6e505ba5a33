"""Files of others are put into edgekd's form without a change to what they compute."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekd.export.foreign import regular


def _foreign(*, batch=None, out="m", ir=3):
    """A network as older exporters write it: weights among the inputs, nodes without names, -1 for open sizes."""
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["h"], name="MatMul_2"),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 2, 2])
    w = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [out, "classes"])
    graph = helper.make_graph(nodes, "g", [x, w], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir)


@pytest.mark.parametrize("batch", [-1, None, "N", 2])
def test_weights_are_no_inputs_nodes_have_names_and_open_sizes_are_open(batch):
    source = _foreign(batch=batch, out=2 if batch == 2 else "m")
    before = source.SerializeToString()
    made = regular(source)
    assert source.SerializeToString() == before
    assert [value.name for value in made.graph.input] == ["x"] and made.ir_version >= 4
    names = [node.name for node in made.graph.node]
    assert names[1] == "MatMul_2" and all(names) and len(set(names)) == 3
    first = made.graph.input[0].type.tensor_type.shape.dim[0]
    out = made.graph.output[0].type.tensor_type.shape.dim
    assert (first.dim_value, first.dim_param) == ((2, "") if batch == 2 else (0, "N" if batch == "N" else "batch"))
    assert (out[0].dim_value, out[0].dim_param) == (first.dim_value, first.dim_param)
    onnx.checker.check_model(made, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 3, "what was called classes"
    inputs = {"x": np.random.default_rng(1).normal(size=(2, 1, 2, 2)).astype(np.float32)}
    expected = ReferenceEvaluator(source).run(None, inputs | {"w": numpy_helper.to_array(source.graph.initializer[0])})
    np.testing.assert_array_equal(ReferenceEvaluator(made).run(None, inputs)[0], expected[0])


def test_a_network_of_edgekds_form_stays_as_it_is():
    once = regular(_foreign())
    assert regular(once).SerializeToString() == once.SerializeToString()
