"""Layers as rows, as columns, and at other batch sizes."""

import pytest

from edgekd.latency import Layer, LayerGraph, with_batch
from edgekd.latency.layers import KINDS, Columns

CONV = Layer("conv_kxk", 720, 30, 40, 18, 20, 2, 18, 1, 9, 1, 1, "c")
PRODUCT = Layer("matmul_activations", 600, 50, 60, 0, 10, 6, 10, 2, 1)


def test_columns_hold_every_number_of_the_layers() -> None:
    columns = Columns.of([CONV, PRODUCT])
    assert [KINDS[kind] for kind in columns.kind] == ["conv_kxk", "matmul_activations"]
    assert columns.macs.tolist() == [720, 600]
    assert columns.in_elems.tolist() == [30, 50]
    assert columns.weight_elems.tolist() == [18, 0]
    assert (columns.gemm_m.tolist(), columns.gemm_n.tolist(), columns.gemm_k.tolist()) == ([20, 10], [2, 6], [18, 10])
    assert (columns.groups.tolist(), columns.kernel_area.tolist()) == ([1, 2], [9, 1])


def test_batch_scales_activations_and_rows_but_not_weights() -> None:
    conv, product = with_batch(LayerGraph("n", 2, (CONV, PRODUCT)), 6).layers
    assert (conv.macs, conv.in_elems, conv.out_elems, conv.gemm_m) == (2160, 90, 120, 60)
    assert (conv.weight_elems, conv.gemm_n, conv.gemm_k, conv.groups) == (18, 2, 18, 1)
    assert (product.gemm_m, product.groups, product.macs) == (10, 6, 1800)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batch_that_is_no_multiple_is_refused(batch: int) -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        with_batch(LayerGraph("n", 2, (CONV,)), batch)


def test_digest_ignores_names_and_sees_numbers() -> None:
    graph = LayerGraph("a", 1, (CONV,))
    renamed = LayerGraph("b", 1, (Layer("conv_kxk", 720, 30, 40, 18, 20, 2, 18, 1, 9, 1, 1, "other"),))
    changed = LayerGraph("a", 1, (Layer("conv_kxk", 721, 30, 40, 18, 20, 2, 18, 1, 9, 1, 1, "c"),))
    assert graph.digest == renamed.digest != changed.digest
