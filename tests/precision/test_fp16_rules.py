import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import ExportError
from edgekd.precision.fp16_rules import reasons_for_fp32, takes_half


def reason(op, *, before=("n", 2, 4, 4), after=("n", 2, 1, 1), inputs="x", domain="", constants=None, **attributes):
    node = helper.make_node(op, inputs.split(), ["y"], name="it", domain=domain, **attributes)
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, before),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, after),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph([node], "g", values[:1], values[1:], tensors)
    return reasons_for_fp32(graph, 17).get("it", "")


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Tanh", "Identity", "MaxPool", "Flatten"])
def test_rules_let_plain_operators_run_in_fp16(op):
    assert reason(op) == ""


@pytest.mark.parametrize("op", ["Softmax", "Exp", "Log", "Sqrt", "Reciprocal", "ReduceSum", "ReduceL2", "Softplus"])
def test_rules_keep_sensitive_operators(op):
    assert reason(op) == f"{op} loses accuracy or overflows in fp16"


@pytest.mark.parametrize(
    ("op", "options", "expected"),
    [
        ("ReduceMean", {"before": ("n", 2, 8, 8)}, ""),
        ("ReduceMean", {"before": ("n", 2, 8, 9)}, "ReduceMean over 72 elements, fp16 is kept up to 64"),
        ("ReduceMean", {"before": ("n", 2, 8, 9), "after": ("n", 2)}, "ReduceMean over 72 elements"),
        ("ReduceMean", {"before": ("n", 2, "h", 4)}, "ReduceMean runs over an unknown number"),
        ("ReduceMean", {"before": ("n", 4), "after": (1, 4)}, "ReduceMean runs over an unknown number"),
        ("GlobalAveragePool", {"before": ("n", 2, 32, 32)}, "GlobalAveragePool over 1024 elements"),
        ("AveragePool", {"kernel_shape": [2, 2], "before": ("n", 2, 99, 99), "after": ("n", 2, 98, 98)}, ""),
        ("AveragePool", {"kernel_shape": [9, 9]}, "AveragePool over 81 elements"),
    ],
)
def test_rules_keep_long_means(op, options, expected):
    found = reason(op, **options)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


@pytest.mark.parametrize("op", ["Conv", "Mul"])
def test_rules_keep_constants_that_fp16_cannot_hold(op):
    constants = {"w": np.array([1.0, -70000.0], np.float32)}
    assert reason(op, inputs="x w", constants=constants) == "constant w reaches 7e+04, fp16 ends at 65504"
    assert reason(op, inputs="x w", constants={"w": np.array([65504.0], np.float32)}) == ""


def test_rules_keep_constants_that_vanish_but_not_weights():
    constants = {"w": np.array([1.0, 1e-8], np.float32)}
    assert reason("Div", inputs="x w", constants=constants) == "constant w holds 1e-08, which is 0 in fp16"
    assert reason("Conv", inputs="x w", constants=constants) == ""
    assert reason("Div", inputs="x w", constants={"w": np.array([1e-7, 0.0], np.float32)}) == ""


def test_rules_keep_what_onnx_defines_for_float_only():
    assert reason("ConstantOfShape") == "ConstantOfShape makes float32 by definition"
    assert reason("RandomNormal", inputs="", shape=[2]) == "RandomNormal makes float32 by definition"
    assert reason("Det") == ""
    assert takes_half(helper.make_node("Resize", ["x", "", "s"], ["y"]), 0, 17)
    assert not takes_half(helper.make_node("Resize", ["x", "", "s"], ["y"]), 2, 17)


def test_rules_refuse_foreign_operators():
    with pytest.raises(ExportError, match=r"'it' is com.microsoft.Gelu"):
        reason("Gelu", domain="com.microsoft")
