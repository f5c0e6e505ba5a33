"""LIN4, the baseline to beat: constant + MACs + convolution activations + weights + number of kernels."""

from __future__ import annotations

from edgekd.latency.kernel_model import Floats
from edgekd.latency.layers import LayerGraph
from edgekd.latency.parameters import Lin4Entry


def lin4_features(graph: LayerGraph) -> tuple[float, float, float, float, float]:
    """Return what LIN4 sees of a network: 1, GMACs, M activations and M weights of its products, kernels."""
    columns = graph.columns
    is_product = columns.gemm_k > 0
    moved = (columns.in_elems + columns.out_elems)[is_product].sum()
    return (1.0, graph.macs / 1e9, float(moved) / 1e6, float(columns.weight_elems.sum()) / 1e6, float(len(columns)))


def lin4_ms(graph: LayerGraph, entry: Lin4Entry) -> float:
    """Predict milliseconds with LIN4.

    Args:
        graph: The network.
        entry: Coefficients of the device.

    Returns:
        The estimate; it can be negative far outside the fitted range.
    """
    coefficients = tuple(entry.model_dump().values())
    return float(sum(weight * value for weight, value in zip(coefficients, lin4_features(graph), strict=True)))


def lin4_entry(coefficients: Floats) -> Lin4Entry:
    """Name the five coefficients `[5]` of a least-squares fit on `lin4_features`."""
    return Lin4Entry(**dict(zip(Lin4Entry.model_fields, map(float, coefficients), strict=True)))
