"""What is not a static, standard ONNX model is refused with the reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.core.errors import ConfigError, DataError
from edgekd.latency import graph_from_onnx, predict
from edgekd.targets import get_target

node = helper.make_node
Save = Callable[..., Path]
Weights = Callable[..., np.ndarray]


def test_dynamic_height_is_refused_by_name(save_onnx: Save) -> None:
    path = save_onnx([node("Relu", ["x"], ["y"])], x=["n", 3, "height", "width"])
    with pytest.raises(DataError, match=r"dimension 2 of input 'x' \(height\), dimension 3 of input 'x' \(width\)"):
        graph_from_onnx(path)


def test_other_fixed_batch_is_refused(save_onnx: Save) -> None:
    path = save_onnx([node("Relu", ["x"], ["y"])], x=[4, 3, 8, 8])
    assert graph_from_onnx(path).batch == graph_from_onnx(path, batch=4).batch == 4
    with pytest.raises(ConfigError, match=r"batch 2 asked for, but input 'x' is fixed at 4"):
        graph_from_onnx(path, batch=2)
    with pytest.raises(ConfigError, match="at least 1"):
        graph_from_onnx(path, batch=0)
    with pytest.raises(ConfigError, match="at most 2147483647"):
        graph_from_onnx(path, batch=2**64)


def test_custom_operators_are_refused_by_name(save_onnx: Save) -> None:
    nodes = [node("Magic", ["x"], ["y"], domain="com.acme")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    with pytest.raises(DataError, match=r"outside the ONNX standard: com\.acme\.Magic"):
        graph_from_onnx(save_onnx(nodes, x=[1, 3], opsets=opsets))


def test_control_flow_is_refused_with_the_reason(save_onnx: Save) -> None:
    branch = helper.make_graph(
        [node("Identity", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3])]
    )
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Cast", ["sum"], ["flag"], to=TensorProto.BOOL),
        node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(DataError, match="If .*control flow"):
        graph_from_onnx(save_onnx(nodes, x=[1, 3]))


def test_a_branch_that_reads_the_input_is_no_constant_though_its_condition_is(save_onnx) -> None:
    """The condition depends on the input's size alone; a network in the branches is still a network."""
    relu = helper.make_node("Relu", ["x"], ["inner"])
    branch = helper.make_graph([relu], "branch", [], [helper.make_tensor_value_info("inner", 1, None)])
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Equal", ["shape", "shape"], ["same"]),
        node("If", ["same"], ["y"], then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(DataError, match="If .*control flow"):
        graph_from_onnx(save_onnx(nodes, x=[1]))


def test_zero_sized_tensor_is_refused(save_onnx: Save) -> None:
    constants = {"s": np.array([0], np.int64), "e": np.array([0], np.int64), "a": np.array([1], np.int64)}
    nodes = [node("Slice", ["x", "s", "e", "a"], ["z"]), node("Relu", ["z"], ["y"])]
    with pytest.raises(DataError, match=r"tensors without elements: 'z', 'y'"):
        graph_from_onnx(save_onnx(nodes, x=[1, 3], constants=constants))


def test_data_dependent_size_is_refused(save_onnx: Save) -> None:
    nodes = [
        node("Cast", ["x"], ["times"], to=TensorProto.INT64),
        node("Tile", ["x", "times"], ["c"]),
        node("Relu", ["c"], ["y"]),
    ]
    with pytest.raises(DataError, match=r"size of 2 tensor\(s\) cannot be known .*'c', 'y'"):
        graph_from_onnx(save_onnx(nodes, x=[1]))


def test_sizes_behind_more_reshapes_than_onnxslim_folds_in_one_go_are_found(save_onnx: Save) -> None:
    """Swin has a chain like this in every block: each size is computed from the one before, with a division."""
    constants = {"axis": np.array([0], np.int64), "one": np.array([1], np.int64), "rest": np.array([-1], np.int64)}
    nodes = []
    for index in range(14):
        before, after = f"x{index}" if index else "x", f"x{index + 1}"
        nodes += [
            node("Shape", [before], [f"shape{index}"]),
            node("Gather", [f"shape{index}", "axis"], [f"size{index}"], axis=0),
            node("Cast", [f"size{index}"], [f"float{index}"], to=TensorProto.FLOAT),
            node("Ceil", [f"float{index}"], [f"ceil{index}"]),
            node("Cast", [f"ceil{index}"], [f"back{index}"], to=TensorProto.INT64),
            node("Concat", [f"back{index}", "one", "rest"], [f"target{index}"], axis=0),
            node("Reshape", [before, f"target{index}"], [f"flat{index}"]),
            node("Relu", [f"flat{index}"], [after]),
        ]
    graph = graph_from_onnx(save_onnx(nodes, x=[6, 4], constants=constants, outputs=["x14"]))
    assert graph.layers[-1].out_elems == 24


def test_group_normalisation_of_opset_21_keeps_the_size_of_its_input(save_onnx: Save, weights: Weights) -> None:
    """Its onnx schema infers no size."""
    constants = {"w": weights(8, 3, 3, 3), "s": weights(8), "b": weights(8), "v": weights(4, 8, 1, 1)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("GroupNormalization", ["c", "s", "b"], ["n"], num_groups=4),
        node("Conv", ["n", "v"], ["y"]),
    ]
    graph = graph_from_onnx(save_onnx(nodes, x=[1, 3, 6, 6], constants=constants, opsets=[helper.make_opsetid("", 21)]))
    assert [layer.kind for layer in graph.layers] == ["input", "conv_kxk", "layernorm", "conv_1x1"]
    assert graph.layers[2].out_elems == 8 * 36


def test_sizes_beyond_any_device_are_refused(save_onnx: Save) -> None:
    graph = graph_from_onnx(save_onnx([node("Relu", ["x"], ["y"])], x=[2**31, 2**31, 2**31]))
    with pytest.raises(DataError, match=r"layer 'y' \(input\) counts 9\.9e\+27: no device"):
        predict(graph, get_target("jetson-orin"), "fp16")


def test_inconsistent_shapes_are_refused(save_onnx: Save) -> None:
    constants = {"w": np.ones((4, 5, 3, 3), np.float32)}
    with pytest.raises(DataError, match="shapes cannot be inferred"):
        graph_from_onnx(
            save_onnx(
                [node("Gemm", ["x", "w2"], ["y"])], x=[2, 3], constants={"w2": np.ones((4, 5), np.float32), **constants}
            )
        )


def test_missing_broken_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        graph_from_onnx(tmp_path / "none.onnx")
    broken, empty = tmp_path / "broken.onnx", tmp_path / "empty.onnx"
    broken.write_bytes(b"\xff\xfe not a model at all")
    empty.write_bytes(b"")
    with pytest.raises(DataError, match="not a readable ONNX model"):
        graph_from_onnx(broken)
    with pytest.raises(DataError, match="not an ONNX model with inputs"):
        graph_from_onnx(empty)


def test_missing_external_weights_are_named(save_onnx: Save, tmp_path: Path) -> None:
    path = save_onnx(
        [node("Conv", ["x", "w"], ["y"])], x=[1, 3, 8, 8], constants={"w": np.ones((64, 3, 3, 3), np.float32)}
    )
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert graph_from_onnx(path).layers[1].weight_elems == 64 * 27
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(DataError, match=r"weights\.bin"):
        graph_from_onnx(path)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph(
        [node("Twice", ["x"], ["y"], domain="mine")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    onnx.save(model, str(tmp_path / "f.onnx"))
    assert [layer.kind for layer in graph_from_onnx(tmp_path / "f.onnx").layers] == ["input"]
