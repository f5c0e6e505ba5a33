"""Templates: numbers by formula equal an analysis of the member itself, and members are analysed as seldom as said."""

import dataclasses
import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.latency import GraphTemplate, Layer, LayerGraph, graphs_from_csv, predict, predict_columns
from edgekd.latency.layers import Columns
from edgekd.targets import get_target

ORIN = get_target("jetson-orin")


def net(width: int, resolution: int) -> LayerGraph:
    """Two convolutions, the second with a stride of 2 above 16 pixels, a shortcut where channels stay, a classifier."""
    stride = 2 if resolution > 16 else 1
    grown, side = max(8, width // 8 * 8), -(-resolution // stride)
    first, second = resolution**2, side**2
    is_same = stride == 1 and grown == width
    layers = (
        Layer("input", 0, 3 * first, 3 * first, name="x"),
        Layer("conv_kxk", first * width * 27, 3 * first, width * first, 27 * width, first, width, 27, 1, 9, 1, 0, "a"),
        Layer(
            "conv_kxk",
            second * grown * 9 * width,
            width * first + is_same * grown * second,
            grown * second,
            9 * width * grown,
            second,
            grown,
            9 * width,
            1,
            9,
            1 + is_same,
            int(is_same),
            "b",
        ),
        Layer("gemm_weights", 10 * grown, grown, 10, 10 * grown, 1, 10, grown, 1, 1, name="c"),
    )
    return LayerGraph(f"net-w{width}", 1, layers, resolution, (f"{width}@{resolution}",))


class Counted:
    def __init__(self) -> None:
        self.calls: Counter[tuple[int, int]] = Counter()

    def __call__(self, width: int, resolution: int) -> LayerGraph:
        self.calls[width, resolution] += 1
        return net(width, resolution)


MEMBERS = list(itertools.product((4, 8, 11, 12, 16, 24, 33), (8, 9, 15, 16, 17, 32, 33, 64)))


@pytest.mark.parametrize("seed", range(4))
def test_every_member_equals_its_own_analysis_whatever_the_order_of_asking(seed: int) -> None:
    members = random.Random(seed).sample(MEMBERS, len(MEMBERS))
    template = GraphTemplate(net)
    for width, resolution in members:
        found, expected = template.graph_at(width, resolution), net(width, resolution)
        assert found.layers == expected.layers
        assert (found.resolution, found.batch, found.name) == (resolution, 1, expected.name)


def test_members_are_analysed_about_once_a_width_and_once_a_resolution() -> None:
    counted = Counted()
    GraphTemplate(counted).columns_at(MEMBERS)
    assert max(counted.calls.values()) == 1
    assert len(counted.calls) < 7 * 3 + 8 * 3  # widths and resolutions for each structure, not their product
    assert len(counted.calls) < len(MEMBERS)


def test_columns_are_those_of_the_graphs() -> None:
    columns, owner = GraphTemplate(net).columns_at(MEMBERS)
    for index, member in enumerate(MEMBERS):
        own = owner == index
        expected = net(*member).columns
        for field in dataclasses.fields(Columns):
            np.testing.assert_array_equal(getattr(columns, field.name)[own], getattr(expected, field.name))


def test_members_that_are_no_product_are_analysed_themselves() -> None:
    def sum_of_two(width: int, resolution: int) -> LayerGraph:
        return LayerGraph("sum", 1, (Layer("concat", 0, width * resolution + resolution**2, 1),), resolution)

    template = GraphTemplate(sum_of_two)
    for width, resolution in itertools.product((2, 3, 5), (7, 11, 13)):
        assert template.graph_at(width, resolution).layers == sum_of_two(width, resolution).layers


def test_template_of_given_graphs_says_which_one_it_lacks() -> None:
    graphs = {(4, 32): net(4, 32), (8, 32): net(8, 32), (4, 64): net(4, 64), (8, 64): net(8, 64)}
    assert GraphTemplate.from_graphs(graphs).graph_at(8, 64).layers == net(8, 64).layers
    with pytest.raises(DataError, match="width 8 at resolution 64"):
        GraphTemplate.from_graphs({key: graph for key, graph in graphs.items() if key != (8, 64)}).columns_at(
            list(graphs)
        )


def test_wrong_macs_are_refused() -> None:
    graph = LayerGraph("odd", 1, (Layer("conv_1x1", 5, 1, 1, 1, 2, 2, 2, 1, 1, name="here"),), 1)
    with pytest.raises(DataError, match="here"):
        GraphTemplate(lambda width, resolution: graph).graph_at(1, 1)


def test_public_graphs_of_a_model_follow_from_its_other_sizes(shared_data: Path) -> None:
    graphs = graphs_from_csv(shared_data / "latency" / "fused_layers.csv.gz")
    own = {(1, size): graph for (model, size), graph in graphs.items() if model == "yolov8n"}
    template = GraphTemplate.from_graphs(own)
    assert all(template.graph_at(*key).digest == graph.digest for key, graph in own.items())


@pytest.mark.parametrize("target", ["jetson-orin", "jetson-orin-nx-16gb", "t4", "h200"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_many_predictions_are_those_of_each(target: str, precision: str) -> None:
    columns, owner = GraphTemplate(net).columns_at(MEMBERS)
    found = predict_columns(columns, owner, get_target(target), precision)  # type: ignore[arg-type]
    for index, member in enumerate(MEMBERS):
        report = predict(net(*member), get_target(target), precision)  # type: ignore[arg-type]
        assert report.p50_ms == pytest.approx(found.p50_ms[index])
        assert report.low_ms == pytest.approx(found.low_ms[index])
        assert report.high_ms == pytest.approx(found.high_ms[index])
        assert report.p99_ms == pytest.approx(found.p99_ms[index])
    assert found.coverage == 0.9


def test_networks_without_kernels_are_refused() -> None:
    columns, owner = GraphTemplate(net).columns_at(MEMBERS[:2])
    with pytest.raises(DataError, match="no kernels"):
        predict_columns(columns, owner + 1, ORIN, "fp16")
    with pytest.raises(DataError, match="no kernels"):
        predict_columns(Columns.of(()), np.array([], dtype=np.int64), ORIN, "fp16")
