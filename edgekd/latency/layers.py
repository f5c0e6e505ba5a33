"""Fused layers: the unit TensorRT launches, and therefore the unit that has a latency."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import DataError

LayerKind = Literal[
    "input",
    "conv_kxk",
    "conv_1x1",
    "conv_depthwise",
    "conv_grouped",
    "gemm_weights",
    "matmul_activations",
    "concat",
    "pointwise",
    "gate",
    "copy_or_gather",
    "pool",
    "reduce",
    "layernorm",
    "softmax",
    "resize",
]
KINDS: tuple[LayerKind, ...] = get_args(LayerKind)

LARGEST_COUNT = 2**53
"""Larger numbers are not exact as floats, and products of them leave 64 bits."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """One kernel: a main operation with everything TensorRT fuses into it.

    Attributes:
        kind: What bounds it and which efficiency it has.
        macs: Multiply-accumulates.
        in_elems: Elements read, the residual operand included, weights not.
        out_elems: Elements written.
        weight_elems: Elements of convolution or matrix weights, biases not counted.
        gemm_m: Rows of the equivalent matrix product (output pixels x batch); 0 where there is none.
        gemm_n: Columns for each group (output channels / groups).
        gemm_k: Inner length for each group (input channels / groups x kernel area).
        groups: Independent products (convolution groups, or the batch of an activation product).
        kernel_area: Kernel height x width; 0 where there is none.
        fused_pointwise: Element-wise operations fused into it.
        fused_residual: 1 when one of them adds another layer's output.
        name: Where it came from.
    """

    kind: LayerKind
    macs: int
    in_elems: int
    out_elems: int
    weight_elems: int = 0
    gemm_m: int = 0
    gemm_n: int = 0
    gemm_k: int = 0
    groups: int = 0
    kernel_area: int = 0
    fused_pointwise: int = 0
    fused_residual: int = 0
    name: str = ""

    @property
    def shape_key(self) -> tuple[str | int, ...]:
        """Everything but the name: layers with equal keys take equal time."""
        return tuple(getattr(self, name) for name in _SHAPE_FIELDS)


_SHAPE_FIELDS = tuple(field.name for field in dataclasses.fields(Layer) if field.name != "name")


@dataclass(frozen=True)
class LayerGraph:
    """The kernels of one network at one batch size, in launch order.

    Attributes:
        name: Network name.
        batch: Batch size that the counts belong to.
        layers: Its kernels.
        resolution: Input height in pixels; 0 when unknown.
        parents: Digest of the file it was read from.
    """

    name: str
    batch: int
    layers: tuple[Layer, ...]
    resolution: int = 0
    parents: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Digest of the kernels and the batch size; names take no part."""
        return sha256_of_json(["LayerGraph", self.batch, [layer.shape_key for layer in self.layers]])

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one inference of the whole batch."""
        return sum(layer.macs for layer in self.layers)

    @cached_property
    def columns(self) -> Columns:
        """The layers as arrays."""
        return Columns.of(self.layers)


@dataclass(frozen=True)
class Columns:
    """Layers as arrays `[L]`, one row a layer, so that thousands of graphs are predicted at once."""

    kind: Ints
    macs: Ints
    in_elems: Ints
    out_elems: Ints
    weight_elems: Ints
    gemm_m: Ints
    gemm_n: Ints
    gemm_k: Ints
    groups: Ints
    kernel_area: Ints

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Columns:
        """Gather the layers' numbers; `kind` becomes an index into `KINDS`. Raises `DataError` for impossible ones."""
        index = {kind: position for position, kind in enumerate(KINDS)}
        rows = [[index[layer.kind], *map(int, layer.shape_key[1:10])] for layer in layers]
        for layer, row in zip(layers, rows, strict=True):
            if max(row) > LARGEST_COUNT:
                raise DataError(
                    f"layer {layer.name!r} ({layer.kind}) counts {max(row):.3g}: no device runs it; look at the sizes "
                    "and the batch"
                )
        return cls(*np.array(rows, dtype=np.int64).reshape(-1, 10).T)

    def __len__(self) -> int:
        return len(self.kind)

    def is_kind(self, *kinds: LayerKind) -> npt.NDArray[np.bool_]:
        """Return `[L]` truth values: is the layer of one of these kinds."""
        return np.isin(self.kind, [KINDS.index(kind) for kind in kinds])


def concatenated(columns: Sequence[Columns]) -> tuple[Columns, Ints]:
    """Join several graphs' columns.

    Args:
        columns: Columns of each graph.

    Returns:
        All layers, and `[L]` the index of the graph each one belongs to.
    """
    joined = (np.concatenate([getattr(part, field.name) for part in columns]) for field in dataclasses.fields(Columns))
    graph = np.repeat(np.arange(len(columns)), [len(part) for part in columns])
    return Columns(*joined), graph


def with_gates(layers: Sequence[Layer], batch: int) -> tuple[Layer, ...]:
    """Tell gates from other element-wise kernels: those that multiply a map by one value a channel.

    Squeeze-and-excitation ends in one. A layer list has no operators, but it shows the product with a single row a
    picture that the values come from, right before a map larger than them.

    Args:
        layers: Kernels in launch order.
        batch: Their batch size.

    Returns:
        The same kernels, gates of kind `"gate"`.
    """
    found = list(layers[:1])
    for before, layer in itertools.pairwise(layers):
        is_vector = before.weight_elems > 0 and before.gemm_m == batch and before.groups == 1
        is_gate = layer.kind == "pointwise" and is_vector and layer.out_elems > before.out_elems
        found.append(dataclasses.replace(layer, kind="gate") if is_gate else layer)
    return tuple(found)


def with_batch(graph: LayerGraph, batch: int) -> LayerGraph:
    """Return the same network at another batch size: activations, MACs and rows scale, weights do not.

    Args:
        graph: Kernels at batch `graph.batch`.
        batch: The batch size wanted, a multiple of `graph.batch`.

    Returns:
        The rescaled graph.

    Raises:
        ValueError: `batch` is not a positive multiple of the graph's batch.
    """
    factor, rest = divmod(batch, graph.batch)
    if factor < 1 or rest:
        raise ValueError(f"batch {batch} is not a multiple of the graph's batch {graph.batch}")
    return dataclasses.replace(graph, batch=batch, layers=tuple(_scaled(layer, factor) for layer in graph.layers))


def _scaled(layer: Layer, factor: int) -> Layer:
    is_batched_product = layer.kind == "matmul_activations"
    return dataclasses.replace(
        layer,
        macs=layer.macs * factor,
        in_elems=layer.in_elems * factor,
        out_elems=layer.out_elems * factor,
        gemm_m=layer.gemm_m if is_batched_product else layer.gemm_m * factor,
        groups=layer.groups * factor if is_batched_product else layer.groups,
    )
