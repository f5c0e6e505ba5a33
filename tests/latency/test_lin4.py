"""LIN4 against its formula."""

import pytest

from edgekd.latency import Layer, LayerGraph
from edgekd.latency.lin4 import lin4_features, lin4_ms
from edgekd.latency.parameters import Lin4Entry

GRAPH = LayerGraph(
    "g",
    1,
    (
        Layer("input", 0, 10**6, 10**6),
        Layer("conv_1x1", 2 * 10**9, 3 * 10**6, 10**6, 5 * 10**6, 1, 1, 1, 1, 1),
    ),
)


def test_features_count_products_only() -> None:
    assert lin4_features(GRAPH) == (1.0, 2.0, 4.0, 5.0, 2.0)


def test_estimate_is_the_weighted_sum() -> None:
    entry = Lin4Entry(
        constant_ms=0.5, per_gmac_ms=0.25, per_conv_melem_ms=0.1, per_weight_melem_ms=0.01, per_kernel_ms=0.001
    )
    assert lin4_ms(GRAPH, entry) == pytest.approx(0.5 + 0.5 + 0.4 + 0.05 + 0.002)
