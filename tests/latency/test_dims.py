"""Open dimensions of an ONNX file given their values."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from edgekd.core.errors import ConfigError, DataError
from edgekd.latency import graph_from_onnx
from edgekd.latency.dims import parse_dims


@pytest.fixture
def open_net(save_onnx, weights) -> Path:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    return save_onnx([node], x=["batch", 3, "height", None], constants={"w": weights(4, 3, 3, 3)})


def test_values_are_read_by_name_or_by_input_and_axis() -> None:
    assert parse_dims(["height=224", "x:3=320", " a = 1"]) == {"height": 224, "x:3": 320, "a": 1}


@pytest.mark.parametrize(
    "text", ["height", "=3", "height=0", "height=-1", "height=1.5", "height=many", "", "height=2147483648"]
)
def test_values_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--dim"):
        parse_dims([text])


def test_the_graph_has_these_sizes(open_net: Path) -> None:
    graph = graph_from_onnx(open_net, 2, dims={"height": 16, "x:3": 24})
    assert graph.macs == 2 * 16 * 24 * 4 * 3 * 9
    assert (graph.batch, graph.resolution) == (2, 16)


def test_a_network_with_open_sizes_says_how_to_give_them(open_net: Path) -> None:
    with pytest.raises(DataError, match=r"dimension 2 of input 'x' \(height\), .*--dim height=224 --dim x:3=224, or"):
        graph_from_onnx(open_net)


def test_a_name_that_is_none_lists_the_open_ones(open_net: Path) -> None:
    with pytest.raises(ConfigError, match="no open dimension 'width'; open are: batch, height, x:0, x:2, x:3"):
        graph_from_onnx(open_net, dims={"width": 3})


def test_sizes_that_the_network_computes_from_its_input_are_folded(save_onnx, weights) -> None:
    """As some exporters write `x.flatten(1)`: into the product of all sizes but the first."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "one", "four"], ["sides"]),
        helper.make_node("ReduceProd", ["sides"], ["length"], keepdims=1),
        helper.make_node("Concat", ["minus", "length"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"]),
    ]
    numbers = {name: np.array([value]) for name, value in (("one", 1), ("four", 4), ("minus", -1))}
    constants = {**numbers, "w": weights(3 * 4 * 4, 5)}
    path = save_onnx(nodes, x=["batch", 3, "height", "width"], constants=constants)
    assert graph_from_onnx(path, dims={"height": 4, "width": 4}).macs == 3 * 4 * 4 * 5


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"a\.onnx"):
        graph_from_onnx(tmp_path / "a.onnx", dims={"height": 4})
