import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekd.export import fp16_rounded, run_onnx


def halves(nodes, **constants):
    tensors = [numpy_helper.from_array(np.float16(value), name) for name, value in constants.items()]
    first = helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", ["y"], ["logits"], to=TensorProto.FLOAT)
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([first, *nodes, last], "g", [value], [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op, inputs, output):
    return helper.make_node(op, inputs.split(), [output], name=output)


@pytest.mark.parametrize(
    ("proto", "by_numpy"),
    [
        (
            halves([node("Add", "x far", "a"), node("Sub", "a far", "y")], far=2048),
            lambda x: (x + np.float16(2048)) - np.float16(2048),
        ),
        (
            halves([node("Mul", "x c", "a"), node("Mul", "a c", "b"), node("Div", "b c", "y")], c=300),
            lambda x: ((x * np.float16(300)) * np.float16(300)) / np.float16(300),
        ),
    ],
)
def test_rounding_gives_what_numpy_gives_in_fp16(proto, by_numpy):
    images = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    with np.errstate(over="ignore"):
        expected = by_numpy(images.astype(np.float16)).astype(np.float32)
    np.testing.assert_array_equal(run_onnx(fp16_rounded(proto).SerializeToString(), images, batch=5), expected)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(ReferenceEvaluator(proto).run(None, {"input": images})[0], expected)
