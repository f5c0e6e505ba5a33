"""Fusions that depend on the TensorRT line, on attention written by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekd.core.errors import ConfigError, DataError
from edgekd.latency import Layer, graph_from_onnx
from edgekd.latency.layers import with_gates

node = helper.make_node
Save = Callable[..., Path]

HEADS, LENGTH = 2, 10


def attention(save_onnx: Save, *, head: int = 16, values: int = 16, is_shared: bool = False) -> Path:
    """Q, K and V are parts of one input; with `is_shared` the scores are an output as well."""
    nodes = [
        node("Slice", ["x", "zero", "head", "axis"], ["q"]),
        node("Slice", ["x", "head", "two", "axis"], ["k"]),
        node("Slice", ["x", "two", "end", "axis"], ["v"]),
        node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "t"], ["scores"], name="scores"),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["y"], name="values"),
    ]
    whole = {"zero": 0, "head": head, "two": 2 * head, "end": 2 * head + values, "axis": 3}
    return save_onnx(
        nodes,
        x=[1, HEADS, LENGTH, 2 * head + values],
        constants={name: np.array([value]) for name, value in whole.items()},
        outputs=("y", "scores") if is_shared else ("y",),
    )


def test_attention_is_three_kernels_before_line_ten_and_one_from_there(save_onnx: Save) -> None:
    path = attention(save_onnx)
    for line in (None, "8.0", "8.6.2"):
        assert [layer.kind for layer in graph_from_onnx(path, tensorrt=line).layers][-3:] == [
            "matmul_activations",
            "softmax",
            "matmul_activations",
        ]
    for line in ("10.3", "11.4.1"):
        graph = graph_from_onnx(path, tensorrt=line)
        *_, fused = graph.layers
        assert [layer.kind for layer in graph.layers].count("softmax") == 0
        assert len(graph.layers) == len(graph_from_onnx(path).layers) - 2
        assert graph.macs == graph_from_onnx(path).macs == 2 * HEADS * LENGTH * LENGTH * 16
        assert (fused.in_elems, fused.out_elems) == (3 * HEADS * LENGTH * 16, HEADS * LENGTH * 16)
        assert (fused.gemm_m, fused.gemm_n, fused.gemm_k, fused.groups) == (LENGTH, LENGTH, 32, HEADS)


@pytest.mark.parametrize(
    "case", [{"head": 12}, {"values": 20}, {"head": 264}, {"values": 264}, {"is_shared": True}], ids=str
)
def test_attention_that_no_kernel_takes_stays_apart(save_onnx: Save, case: dict[str, int]) -> None:
    path = attention(save_onnx, **case)  # type: ignore[arg-type]
    assert graph_from_onnx(path, tensorrt="10.3").digest == graph_from_onnx(path).digest


def test_layer_normalisation_is_unknown_before_its_line(save_onnx: Save) -> None:
    nodes = [node("LayerNormalization", ["x", "s"], ["y"], axis=-1)]
    path = save_onnx(nodes, x=[1, 4, 8], constants={"s": np.ones(8, np.float32)})
    assert [layer.kind for layer in graph_from_onnx(path, tensorrt="8.6").layers] == ["input", "layernorm"]
    with pytest.raises(DataError, match=r"LayerNormalization \(1\): TensorRT before 8\.6"):
        graph_from_onnx(path, tensorrt="8.5.2")


def test_attention_as_one_operator_is_refused_with_what_to_do(save_onnx: Save) -> None:
    nodes = [node("Attention", ["x", "x", "x"], ["y"], q_num_heads=2, kv_num_heads=2)]
    path = save_onnx(nodes, x=[1, 10, 32], opsets=[helper.make_opsetid("", 23)])
    with pytest.raises(DataError, match=r"Attention \(1\): attention as one operator; export at opset 22 or lower"):
        graph_from_onnx(path, tensorrt="11.4.1")


def test_lines_without_rules_are_refused(save_onnx: Save) -> None:
    path = save_onnx([node("Relu", ["x"], ["y"])], x=[1, 4])
    with pytest.raises(ConfigError, match=r"TensorRT 7\.1: fusions are known from 8\.0 on"):
        graph_from_onnx(path, tensorrt="7.1")
    with pytest.raises(ConfigError, match="'newest' is no version"):
        graph_from_onnx(path, tensorrt="newest")


def test_gates_follow_a_product_of_one_row_a_picture() -> None:
    squeeze = Layer("conv_1x1", 2 * 4 * 8, 8, 16, 32, 2, 8, 4, 1, 1)
    product, final = Layer("pointwise", 0, 160, 160), Layer("pointwise", 0, 16, 16)
    assert [layer.kind for layer in with_gates((squeeze, product), 2)] == ["conv_1x1", "gate"]
    assert [layer.kind for layer in with_gates((squeeze, product), 1)] == ["conv_1x1", "pointwise"]
    assert [layer.kind for layer in with_gates((squeeze, final), 2)] == ["conv_1x1", "pointwise"]
    assert [layer.kind for layer in with_gates((product, product), 2)] == ["pointwise", "pointwise"]
    assert with_gates((), 1) == ()
