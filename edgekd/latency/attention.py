"""Attention as one kernel: the products around a softmax and the softmax itself, where a TensorRT line fuses them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from edgekd.latency.layers import Layer

_HEAD_MULTIPLE = 8


class Wired(Protocol):
    """A kernel by the tensors that it reads and writes."""

    reads: list[str]
    output: str


def with_attention_fused(
    kernels: Sequence[Wired],
    layers: Sequence[Layer],
    *,
    source: Mapping[str, str],
    pinned: Collection[str],
    widest_head: int,
) -> list[Layer]:
    """Join `softmax(Q K) V` where each step reads the one before and nothing else does.

    Args:
        kernels: Kernels in launch order.
        layers: What they amount to.
        source: The tensor in memory that each tensor is a view of.
        pinned: Tensors that have to reach memory whoever reads them.
        widest_head: Widest head that is fused.

    Returns:
        The layers, three of them being one where attention was found: scores stay on the chip.
    """
    maker = {kernel.output: position for position, kernel in enumerate(kernels)}
    readers: dict[str, list[int]] = {}
    for position, kernel in enumerate(kernels):
        for name in kernel.reads:
            readers.setdefault(source[name], []).append(position)
    fused: dict[int, Layer] = {}
    dropped: set[int] = set()
    for softmax in (position for position, layer in enumerate(layers) if layer.kind == "softmax"):
        before = maker.get(source[kernels[softmax].reads[0]], -1)
        after = readers.get(kernels[softmax].output, [])
        if before < 0 or len(after) != 1 or readers[kernels[before].output] != [softmax]:
            continue
        if {kernels[before].output, kernels[softmax].output} & set(pinned):
            continue
        scores, values = layers[before], layers[after[0]]
        if _is_attention(scores, values, widest_head):
            fused[after[0]] = _joined(scores, values)
            dropped |= {before, softmax}
    return [fused.get(position, layer) for position, layer in enumerate(layers) if position not in dropped]


def _is_attention(scores: Layer, values: Layer, widest_head: int) -> bool:
    widths = (scores.gemm_k, values.gemm_n)
    are_products = scores.kind == values.kind == "matmul_activations"
    fits = scores.groups == values.groups and (scores.gemm_m, scores.gemm_n) == (values.gemm_m, values.gemm_k)
    return are_products and fits and all(width <= widest_head and width % _HEAD_MULTIPLE == 0 for width in widths)


def _joined(scores: Layer, values: Layer) -> Layer:
    """Arithmetic of both products; Q, K, V and what was added to the scores are read, the result is written."""
    return dataclasses.replace(
        scores,
        macs=scores.macs + values.macs,
        in_elems=scores.in_elems + values.in_elems - scores.out_elems,
        out_elems=values.out_elems,
        gemm_k=scores.gemm_k + values.gemm_n,
        fused_pointwise=scores.fused_pointwise + values.fused_pointwise,
        fused_residual=scores.fused_residual + values.fused_residual,
        name=values.name,
    )
