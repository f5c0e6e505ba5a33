"""Fusion against graphs counted by hand, a brute-force MAC counter, and the public table of fused layers."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekd.core.errors import DataError
from edgekd.latency import Layer, graph_from_onnx, graphs_from_csv

node = helper.make_node
Save = Callable[..., Path]
Weights = Callable[..., np.ndarray]


def conv(x: str, y: str, w: str = "w", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", [x, w], [y], name=f"conv_{y}", pads=[1, 1, 1, 1], **attributes)


def kernels(path: Path, batch: int = 1) -> list[tuple[str, int, int]]:
    return [(layer.kind, layer.fused_pointwise, layer.fused_residual) for layer in graph_from_onnx(path, batch).layers]


def only(path: Path, kind: str) -> Layer:
    (found,) = [layer for layer in graph_from_onnx(path).layers if layer.kind == kind]
    return found


def macs_by_loops(in_channels: int, size: int, weight: tuple[int, ...], *, stride: int, pad: int, groups: int) -> int:
    """Count multiply-accumulates of a convolution one by one, padding taps included as real kernels run them."""
    out_size = (size + 2 * pad - weight[2]) // stride + 1
    count = 0
    for out_channel, _, _ in itertools.product(range(weight[0]), range(out_size), range(out_size)):
        first = out_channel // (weight[0] // groups) * (in_channels // groups)
        for _ in itertools.product(range(first, first + weight[1]), range(weight[2]), range(weight[3])):
            count += 1
    return count


@pytest.mark.parametrize(
    ("in_channels", "weight", "stride", "groups", "kind"),
    [
        (3, (6, 3, 3, 3), 1, 1, "conv_kxk"),
        (4, (8, 4, 3, 3), 2, 1, "conv_kxk"),
        (4, (8, 2, 3, 3), 1, 2, "conv_grouped"),
        (6, (6, 1, 3, 3), 1, 6, "conv_depthwise"),
        (6, (12, 1, 3, 3), 2, 6, "conv_depthwise"),
    ],
)
def test_convolution_macs_equal_brute_force(
    save_onnx: Save, weights: Weights, in_channels: int, weight: tuple[int, ...], stride: int, groups: int, kind: str
) -> None:
    nodes = [conv("x", "y", strides=[stride, stride], group=groups)]
    layer = only(save_onnx(nodes, x=[1, in_channels, 8, 8], constants={"w": weights(*weight)}), kind)
    expected = macs_by_loops(in_channels, 8, weight, stride=stride, pad=1, groups=groups)
    assert layer.macs == expected == layer.gemm_m * layer.gemm_n * layer.gemm_k * layer.groups
    assert layer.weight_elems == int(np.prod(weight))
    assert (layer.in_elems, layer.out_elems) == (in_channels * 64, weight[0] * (8 // stride) ** 2)
    assert (layer.kernel_area, layer.groups) == (9, groups)


def test_batch_is_given_where_the_file_leaves_it_open(save_onnx: Save, weights: Weights) -> None:
    path = save_onnx([conv("x", "y")], x=["batch", 2, 8, 8], constants={"w": weights(4, 2, 3, 3)})
    one, five = graph_from_onnx(path), graph_from_onnx(path, batch=5)
    assert (one.batch, five.batch, one.resolution) == (1, 5, 8)
    assert five.macs == 5 * one.macs == 5 * 64 * 4 * 18
    assert five.layers[1].gemm_m == 5 * 64


def test_bias_batchnorm_and_activation_fold_into_the_convolution(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        conv("x", "c"),
        node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"]),
        node("Add", ["n", "bias"], ["b"]),
        node("Relu", ["b"], ["y"]),
    ]
    constants = {"w": weights(4, 2, 3, 3), "s": weights(4), "bias": weights(1, 4, 1, 1)}
    assert kernels(save_onnx(nodes, x=[1, 2, 8, 8], constants=constants)) == [("input", 0, 0), ("conv_kxk", 1, 0)]


def test_silu_counts_as_one_activation(save_onnx: Save, weights: Weights) -> None:
    nodes = [conv("x", "c"), node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])]
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants={"w": weights(4, 2, 3, 3)})
    assert kernels(path) == [("input", 0, 0), ("conv_kxk", 1, 0)]
    assert only(path, "conv_kxk").in_elems == 128


def test_normalisation_of_the_input_joins_its_reformatting(save_onnx: Save, weights: Weights) -> None:
    nodes = [node("Sub", ["x", "mean"], ["a"]), node("Div", ["a", "std"], ["b"]), conv("b", "y")]
    constants = {"mean": weights(1, 2, 1, 1), "std": weights(1, 2, 1, 1), "w": weights(4, 2, 3, 3)}
    assert kernels(save_onnx(nodes, x=[1, 2, 8, 8], constants=constants)) == [("input", 2, 0), ("conv_kxk", 0, 0)]


def test_pre_activation_needs_a_kernel_of_its_own(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        conv("x", "c"),
        node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"]),
        node("Relu", ["n"], ["r"]),
        conv("r", "d", "v"),
        node("Add", ["d", "c"], ["y"]),
    ]
    constants = {"w": weights(4, 2, 3, 3), "v": weights(4, 4, 3, 3), "s": weights(4)}
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants=constants)
    assert kernels(path) == [("input", 0, 0), ("conv_kxk", 0, 0), ("pointwise", 1, 0), ("conv_kxk", 1, 1)]


def test_activation_with_two_readers_still_fuses_but_a_tensor_needed_raw_does_not(
    save_onnx: Save, weights: Weights
) -> None:
    constants = {"w": weights(4, 2, 3, 3), "v": weights(4, 4, 3, 3)}
    shared = [conv("x", "c"), node("Relu", ["c"], ["r"]), conv("r", "d", "v"), node("Add", ["d", "r"], ["y"])]
    raw = [conv("x", "c"), node("Relu", ["c"], ["r"]), conv("r", "d", "v"), node("Add", ["d", "c"], ["y"])]
    assert kernels(save_onnx(shared, x=[1, 2, 8, 8], constants=constants)) == [
        ("input", 0, 0),
        ("conv_kxk", 1, 0),
        ("conv_kxk", 1, 1),
    ]
    assert ("pointwise", 0, 0) in kernels(save_onnx(raw, x=[1, 2, 8, 8], constants=constants))


def test_output_of_the_network_is_not_swallowed(save_onnx: Save, weights: Weights) -> None:
    nodes = [conv("x", "c"), node("Relu", ["c"], ["y"])]
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants={"w": weights(4, 2, 3, 3)}, outputs=("c", "y"))
    assert kernels(path) == [("input", 0, 0), ("conv_kxk", 0, 0), ("pointwise", 0, 0)]


def test_residual_is_added_by_the_later_convolution_and_counted_once(save_onnx: Save, weights: Weights) -> None:
    nodes = [conv("x", "a"), conv("x", "b", "v"), node("Add", ["a", "b"], ["s"]), node("Relu", ["s"], ["y"])]
    constants = {"w": weights(4, 2, 3, 3), "v": weights(4, 2, 3, 3)}
    layers = graph_from_onnx(save_onnx(nodes, x=[1, 2, 8, 8], constants=constants)).layers
    assert [(layer.fused_pointwise, layer.fused_residual) for layer in layers] == [(0, 0), (0, 0), (2, 1)]
    assert [layer.in_elems for layer in layers] == [128, 128, 128 + 256]


def test_constant_after_an_activation_is_not_folded_into_the_weights(save_onnx: Save, weights: Weights) -> None:
    nodes = [conv("x", "c"), node("Relu", ["c"], ["r"]), node("Mul", ["r", "k"], ["y"])]
    constants = {"w": weights(4, 2, 3, 3), "k": weights(1, 4, 1, 1)}
    assert kernels(save_onnx(nodes, x=[1, 2, 8, 8], constants=constants)) == [("input", 0, 0), ("conv_kxk", 2, 0)]


def test_kernel_waits_for_an_operand_that_waits_itself(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        conv("x", "a"),
        conv("x", "b", "v"),
        node("MaxPool", ["x"], ["p"], kernel_shape=[1, 1], name="pool"),
        node("Add", ["b", "p"], ["s"]),
        node("Add", ["a", "s"], ["y"]),
    ]
    layers = graph_from_onnx(
        save_onnx(nodes, x=[1, 2, 8, 8], constants={"w": weights(2, 2, 3, 3), "v": weights(2, 2, 3, 3)})
    ).layers
    assert [layer.name for layer in layers] == ["x", "pool", "conv_b", "conv_a"]
    assert [layer.fused_residual for layer in layers] == [0, 0, 1, 1]


def test_second_residual_needs_its_own_kernel(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[1, 1]),
        node("MaxPool", ["x"], ["b"], kernel_shape=[1, 1]),
        conv("x", "c"),
        node("Add", ["c", "a"], ["s"]),
        node("Add", ["s", "b"], ["y"]),
    ]
    constants = {"w": weights(2, 2, 3, 3)}
    found = kernels(save_onnx(nodes, x=[1, 2, 8, 8], constants=constants))
    assert found[-2:] == [("conv_kxk", 1, 1), ("pointwise", 0, 0)]


def test_option_a_shortcut_is_one_copy_and_the_add_stays_in_the_convolution(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        conv("x", "a", strides=[2, 2]),
        node("Slice", ["x", "zero", "end", "axes", "two"], ["half"]),
        node("Pad", ["half", "pads"], ["wide"]),
        node("Add", ["a", "wide"], ["s"]),
        node("Relu", ["s"], ["y"]),
    ]
    constants = {
        "w": weights(8, 4, 3, 3),
        "zero": np.array([0, 0], np.int64),
        "end": np.array([8, 8], np.int64),
        "axes": np.array([2, 3], np.int64),
        "two": np.array([2, 2], np.int64),
        "pads": np.array([0, 2, 0, 0, 0, 2, 0, 0], np.int64),
    }
    path = save_onnx(nodes, x=[1, 4, 8, 8], constants=constants)
    assert kernels(path) == [("input", 0, 0), ("copy_or_gather", 0, 0), ("conv_kxk", 2, 1)]
    copy = only(path, "copy_or_gather")
    assert (copy.in_elems, copy.out_elems) == (4 * 16, 8 * 16)


def test_add_of_something_computed_from_the_convolution_is_not_taken_early(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        conv("x", "c"),
        node("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2]),
        node("Add", ["c", "t"], ["y"]),
    ]
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants={"w": weights(4, 2, 3, 3)})
    assert kernels(path) == [("input", 0, 0), ("conv_kxk", 0, 0), ("copy_or_gather", 0, 0), ("pointwise", 0, 0)]


def test_squeeze_and_excite_gate_is_a_kernel(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        conv("x", "c"),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Conv", ["p", "v"], ["q"]),
        node("Sigmoid", ["q"], ["g"]),
        node("Mul", ["c", "g"], ["y"]),
    ]
    constants = {"w": weights(4, 2, 3, 3), "v": weights(4, 4, 1, 1)}
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants=constants)
    kinds = ["input", "conv_kxk", "reduce", "conv_1x1", "gate"]
    assert [layer.kind for layer in graph_from_onnx(path).layers] == kinds
    assert only(path, "gate").in_elems == 256 + 4
    assert only(path, "conv_1x1").fused_pointwise == 1


def test_reshapes_are_free_and_linear_layers_are_products_with_weights(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["g"], transB=1),
        node("Relu", ["g"], ["r"]),
        node("MatMul", ["r", "v"], ["m"]),
        node("Add", ["m", "c"], ["y"]),
    ]
    constants = {"w": weights(5, 4), "b": weights(5), "v": weights(5, 3), "c": weights(3)}
    path = save_onnx(nodes, x=["n", 4, 6, 6], constants=constants)
    graph = graph_from_onnx(path, batch=7)
    assert [layer.kind for layer in graph.layers] == ["input", "reduce", "gemm_weights", "gemm_weights"]
    first, second = graph.layers[2:]
    assert (first.macs, first.gemm_m, first.gemm_n, first.gemm_k, first.weight_elems) == (7 * 20, 7, 5, 4, 20)
    assert (second.macs, second.gemm_m, second.gemm_n, second.gemm_k) == (7 * 15, 7, 3, 5)
    assert (first.fused_pointwise, second.fused_pointwise) == (1, 0)


def test_product_of_activations_has_its_batch_as_groups(save_onnx: Save) -> None:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["x", "t"], ["m"]),
        node("Softmax", ["m"], ["y"]),
    ]
    path = save_onnx(nodes, x=[1, 2, 10, 3])
    layer = only(path, "matmul_activations")
    assert (layer.macs, layer.gemm_m, layer.gemm_n, layer.gemm_k, layer.groups) == (2 * 10 * 10 * 3, 10, 10, 3, 2)
    assert (layer.in_elems, layer.out_elems, layer.weight_elems) == (120, 200, 0)
    assert only(path, "softmax").in_elems == 200


def test_quantise_and_dequantise_vanish_and_both_branches_still_fuse(save_onnx: Save, weights: Weights) -> None:
    def fake(x: str, y: str) -> list[onnx.NodeProto]:
        return [node("QuantizeLinear", [x, "s", "z"], [f"{y}q"]), node("DequantizeLinear", [f"{y}q", "s", "z"], [y])]

    nodes = [
        *fake("x", "x1"),
        node("DequantizeLinear", ["wq", "s", "z"], ["w1"]),
        conv("x1", "a", "w1"),
        node("Relu", ["a"], ["r"]),
        *fake("r", "r1"),
        conv("r1", "b", "w1"),
        *fake("b", "b1"),
        *fake("r", "r2"),
        node("Add", ["b1", "r2"], ["s1"]),
        node("Relu", ["s1"], ["y"]),
    ]
    constants = {"wq": np.ones((2, 2, 3, 3), np.int8), "s": np.float32(0.1).reshape(()), "z": np.int8(0).reshape(())}
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants=constants)
    assert kernels(path) == [("input", 0, 0), ("conv_kxk", 1, 0), ("conv_kxk", 2, 1)]
    assert [layer.weight_elems for layer in graph_from_onnx(path).layers] == [0, 36, 36]


def test_pads_pools_concats_and_splits(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w"], ["c"]),
        node("Split", ["c"], ["l", "r"], axis=1),
        node("Relu", ["l"], ["a"]),
        node("Concat", ["a", "r"], ["k"], axis=1),
        node("MaxPool", ["k"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["m"], ["y"], kernel_shape=[4, 4]),
    ]
    constants = {"w": weights(4, 2, 3, 3), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants=constants, opsets=[helper.make_opsetid("", 13)])
    layers = graph_from_onnx(path).layers
    assert [layer.kind for layer in layers] == ["input", "conv_kxk", "pointwise", "concat", "pool", "reduce"]
    assert [layer.out_elems for layer in layers] == [128, 256, 128, 256, 64, 4]
    assert layers[1].fused_pointwise == 0


def test_constants_computed_in_the_graph_cost_nothing(save_onnx: Save, weights: Weights) -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Mul", ["w", "w"], ["ww"]),
        node("Conv", ["x", "ww"], ["c"]),
        node("Reshape", ["c", "target"], ["y"]),
    ]
    constants = {"zero": np.array([0], np.int64), "rest": np.array([-1], np.int64), "w": weights(4, 2, 1, 1)}
    path = save_onnx(nodes, x=["n", 2, 8, 8], constants=constants)
    assert [layer.kind for layer in graph_from_onnx(path, batch=3).layers] == ["input", "conv_1x1"]


def test_branch_that_nobody_reads_costs_nothing(save_onnx: Save, weights: Weights) -> None:
    nodes = [conv("x", "y"), conv("x", "unused"), node("Relu", ["unused"], ["gone"])]
    path = save_onnx(nodes, x=[1, 2, 8, 8], constants={"w": weights(4, 2, 3, 3)})
    assert kernels(path) == [("input", 0, 0), ("conv_kxk", 0, 0)]


def test_transposed_convolution_macs_count_its_inputs(save_onnx: Save, weights: Weights) -> None:
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])]
    layer = only(save_onnx(nodes, x=[1, 3, 4, 4], constants={"w": weights(3, 5, 2, 2)}), "conv_kxk")
    assert (layer.macs, layer.out_elems) == (16 * 3 * 5 * 4, 5 * 64)


def test_unknown_operators_are_all_named_with_reasons(save_onnx: Save) -> None:
    nodes = [node("Det", ["x"], ["d"]), node("NonZero", ["x"], ["z"]), node("Cast", ["z"], ["y"], to=1)]
    with pytest.raises(
        DataError, match=r"Det \(1\): not in the fusion rules; NonZero \(1\): its output size depends"
    ) as caught:
        graph_from_onnx(save_onnx(nodes, x=[4, 4], outputs=("d", "y")))
    assert "cannot be" in str(caught.value)


def resnet18_nodes(weights: Weights) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """ResNet-18 as torchvision orders it: convolutions with folded batch norm, shortcut after the second one."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {"fc": weights(1000, 512), "bias": weights(1000)}

    def add(x: str, y: str, in_channels: int, channels: int, area: int, stride: int) -> None:
        constants[f"w_{y}"] = weights(channels, in_channels, area, area)
        pad = area // 2
        nodes.append(node("Conv", [x, f"w_{y}"], [y], name=y, pads=[pad] * 4, strides=[stride] * 2))

    add("x", "stem", 3, 64, 7, 2)
    nodes.append(node("Relu", ["stem"], ["stem_relu"]))
    nodes.append(node("MaxPool", ["stem_relu"], ["b"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    current, in_channels = "b", 64
    for stage, channels in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride, label = (2 if stage and not block else 1), f"s{stage}b{block}"
            add(current, f"{label}_1", in_channels, channels, 3, stride)
            nodes.append(node("Relu", [f"{label}_1"], [f"{label}_r"]))
            add(f"{label}_r", f"{label}_2", channels, channels, 3, 1)
            shortcut = current
            if stride == 2:
                shortcut = f"{label}_d"
                add(current, shortcut, in_channels, channels, 1, 2)
            nodes.append(node("Add", [f"{label}_2", shortcut], [f"{label}_s"]))
            nodes.append(node("Relu", [f"{label}_s"], [f"{label}_y"]))
            current, in_channels = f"{label}_y", channels
    nodes.append(node("GlobalAveragePool", [current], ["pool"]))
    nodes.append(node("Flatten", ["pool"], ["flat"]))
    nodes.append(node("Gemm", ["flat", "fc", "bias"], ["y"], transB=1))
    return nodes, constants


def test_resnet18_equals_the_public_fused_layers(save_onnx: Save, weights: Weights, shared_data: Path) -> None:
    nodes, constants = resnet18_nodes(weights)
    graph = graph_from_onnx(save_onnx(nodes, x=["n", 3, 224, 224], constants=constants))
    table = graphs_from_csv(shared_data / "latency" / "fused_layers.csv.gz")[("resnet18", 224)]
    assert Counter(layer.shape_key for layer in graph.layers) == Counter(layer.shape_key for layer in table.layers)
    assert graph.digest == table.digest
