"""Open dimensions of an ONNX file given their values."""

from pathlib import Path

import pytest
from onnx import helper

from edgekd.core.errors import ConfigError, DataError
from edgekd.latency import graph_from_onnx
from edgekd.latency.dims import parse_dims, with_dims


@pytest.fixture
def open_net(save_onnx, weights) -> Path:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    return save_onnx([node], x=["batch", 3, "height", None], constants={"w": weights(4, 3, 3, 3)})


def test_values_are_read_by_name_or_by_input_and_axis() -> None:
    assert parse_dims(["height=224", "x:3=320", " a = 1"]) == {"height": 224, "x:3": 320, "a": 1}


@pytest.mark.parametrize("text", ["height", "=3", "height=0", "height=-1", "height=1.5", "height=many", ""])
def test_values_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--dim"):
        parse_dims([text])


def test_graph_of_the_copy_has_these_sizes(open_net: Path, tmp_path: Path) -> None:
    graph = graph_from_onnx(with_dims(open_net, {"height": 16, "x:3": 24}, tmp_path / "fixed.onnx"), 2)
    assert graph.macs == 2 * 16 * 24 * 4 * 3 * 9
    assert (graph.batch, graph.resolution) == (2, 16)


def test_a_network_with_open_sizes_says_how_to_give_them(open_net: Path) -> None:
    with pytest.raises(DataError, match=r"dimension 2 of input 'x' \(height\), .*--dim height=224 --dim x:3=224, or"):
        graph_from_onnx(open_net)


def test_a_name_that_is_none_lists_the_open_ones(open_net: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no open dimension 'width'; open are: batch, height, x:0, x:2, x:3"):
        with_dims(open_net, {"width": 3}, tmp_path / "fixed.onnx")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"a\.onnx"):
        with_dims(tmp_path / "a.onnx", {}, tmp_path / "fixed.onnx")
