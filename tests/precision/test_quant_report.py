import numpy as np
from onnx import helper, numpy_helper

from edgekd.precision.quant_report import inspect_graph


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def graph(nodes, **constants):
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_graph(nodes, "g", [], [], tensors)


SCALE, ZERO = np.float32(0.1), np.int8(0)
CHANNELS, ZEROS = np.ones(4, np.float32), np.zeros(4, np.int8)


def quantised(name, scale="s", zero="z", **attributes):
    return [
        node("QuantizeLinear", f"{name} {scale} {zero}", f"{name}_q", **attributes),
        node("DequantizeLinear", f"{name}_q {scale} {zero}", f"{name}_dq", **attributes),
    ]


def test_report_counts_a_float_graph():
    report = inspect_graph(graph([node("Conv", "x w", "c"), node("Add", "c x", "a")], w=np.ones((4, 1, 1, 1))))
    assert (report.weighted, report.quantized, report.floating) == (1, 0, ("c",))
    assert (report.residual_adds, report.quantized_adds, report.quantize_nodes) == (1, 0, 0)
    assert report.activation_types == ()


def test_report_counts_a_symmetric_graph():
    nodes = [
        *quantised("x"),
        *quantised("w", "cs", "cz", axis=0),
        node("Conv", "x_dq w_dq b", "c"),
        *quantised("c"),
        node("Add", "c_dq x_dq", "a"),
        node("Add", "a b", "biased"),
    ]
    constants = {"s": SCALE, "z": ZERO, "cs": CHANNELS, "cz": ZEROS, "b": CHANNELS, "w": np.ones((4, 1, 1, 1))}
    report = inspect_graph(graph(nodes, **constants))
    assert (report.weighted, report.quantized, report.per_channel, report.floating) == (1, 1, 1, ())
    assert (report.residual_adds, report.quantized_adds, report.quantized_biases) == (1, 1, 0)
    assert (report.activation_types, report.weight_types, report.is_symmetric) == (("int8",), ("int8",), True)
    assert (report.quantize_nodes, report.dequantize_nodes) == (3, 3)


def test_report_sees_what_is_missing():
    nodes = [
        *quantised("x", zero="shifted"),
        node("DequantizeLinear", "w s z", "w_dq"),
        node("DequantizeLinear", "b s i", "b_dq"),
        node("Gemm", "x_dq w_dq b_dq", "first"),
        node("Gemm", "first w_dq", "second"),
        node("MatMul", "first second", "attention"),
        node("Add", "x_dq second", "half"),
    ]
    constants = {"s": SCALE, "z": ZERO, "i": np.int32(0), "shifted": np.uint8(3), "b": np.zeros(4, np.int32)}
    report = inspect_graph(graph(nodes, **constants, w=np.zeros((4, 4), np.int8)))
    assert (report.weighted, report.quantized, report.per_channel, report.floating) == (2, 1, 0, ("second",))
    assert (report.residual_adds, report.quantized_adds, report.quantized_biases) == (1, 0, 1)
    assert (report.activation_types, report.weight_types, report.is_symmetric) == (("uint8",), ("int8",), False)


def test_report_needs_input_and_weight_both_quantised():
    nodes = [*quantised("x"), *quantised("w"), node("Gemm", "x_dq w", "first"), node("Gemm", "first w_dq", "second")]
    report = inspect_graph(graph(nodes, s=SCALE, z=ZERO, w=np.ones((4, 4), np.float32)))
    assert (report.weighted, report.quantized, report.floating) == (2, 0, ("first", "second"))
