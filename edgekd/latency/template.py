"""A family's kernels at one depth as a formula of width and resolution, so that a search exports nothing again.

Between networks of one structure every number of a kernel (elements, rows, columns, inner length) is a product of a
part that the width decides and a part that the resolution decides. With `v(w, r)` known at one reference `(w0, r0)`,

    v(w, r) = v(w, r0) * v(w0, r) / v(w0, r0),

exactly, in whole numbers. So each width and each resolution is analysed once, and every pair of them is arithmetic.
Where the structure changes (a stride that a small input does without, a shortcut that equal channels do without)
another reference begins. One pair of each structure is analysed as well and compared: a structure that is no such
product is analysed pair by pair instead.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekd.core.errors import DataError
from edgekd.latency.layers import Columns, Ints, Layer, LayerGraph, concatenated

Analyse = Callable[[int, int], LayerGraph]
"""Width and resolution to the kernels of that member, at batch 1."""

_NUMBERS = ("in_elems", "out_elems", "weight_elems", "gemm_m", "gemm_n", "gemm_k", "groups")


@dataclass(frozen=True)
class _Member:
    """A member that was analysed: its kernels, what must be equal for the formula to hold, and its numbers."""

    graph: LayerGraph
    key: tuple[object, ...]
    numbers: Ints


@dataclass
class _Structure:
    """Members with the same kernels on maps that are equal where the others' are equal.

    Attributes:
        width: Width of the reference.
        resolution: Resolution of the reference.
        kind: Indices into `KINDS` `[L]`.
        kernel_area: Kernel areas `[L]`.
        widths: Numbers `[L, 7]` at the reference's resolution, by width.
        resolutions: Numbers `[L, 7]` at the reference's width, by resolution.
        is_product: Whether a pair of another width and resolution was found to follow; `None` before one was asked for.
    """

    width: int
    resolution: int
    kind: Ints
    kernel_area: Ints
    widths: dict[int, Ints] = field(default_factory=dict)
    resolutions: dict[int, Ints] = field(default_factory=dict)
    is_product: bool | None = None

    def numbers(self, members: Sequence[tuple[int, int]]) -> Ints:
        """Return the numbers `[N, L, 7]` of members by the formula."""
        at_width = np.stack([self.widths[width] for width, _ in members])
        at_resolution = np.stack([self.resolutions[resolution] for _, resolution in members])
        product: Ints = at_width * at_resolution // np.maximum(self.widths[self.width], 1)
        return product


class GraphTemplate:
    """The kernels of one family at one depth, for any width and resolution.

    Args:
        analyse: Gives the kernels of a member; it is called about once a width and once a resolution.
    """

    def __init__(self, analyse: Analyse) -> None:
        self._member = functools.cache(lambda width, resolution: _member(analyse(width, resolution)))
        self._probe_width: int | None = None
        self._reference_of: dict[tuple[object, ...], int] = {}
        self._structures: dict[tuple[int, tuple[object, ...]], _Structure] = {}

    @classmethod
    def from_graphs(cls, graphs: Mapping[tuple[int, int], LayerGraph]) -> GraphTemplate:
        """Make a template from kernels analysed already.

        Args:
            graphs: By `(width, resolution)`: a first member, others of its resolution, others of its width, and one
                that shares neither.

        Returns:
            A template that raises `DataError` where it is asked for what does not follow from them.
        """

        def known(width: int, resolution: int) -> LayerGraph:
            if (width, resolution) not in graphs:
                raise DataError(f"width {width} at resolution {resolution} was not analysed, and the template needs it")
            return graphs[width, resolution]

        return cls(known)

    def graph_at(self, width: int, resolution: int) -> LayerGraph:
        """Return the kernels of one member, equal in every number to an analysis of the member itself.

        Args:
            width: Channels of the first stage.
            resolution: Input height in pixels, or length in tokens.
        """
        structure = self._structure(width, resolution)
        if structure is None:
            return self._member(width, resolution).graph
        like = self._member(width, structure.resolution).graph
        numbers = structure.numbers([(width, resolution)])[0]
        layers = tuple(_with_numbers(layer, row) for layer, row in zip(like.layers, numbers, strict=True))
        parents = self._member(structure.width, resolution).graph.parents
        return dataclasses.replace(
            like,
            layers=layers,
            resolution=resolution if like.resolution else 0,
            parents=tuple(dict.fromkeys((*like.parents, *parents))),
        )

    def columns_at(self, members: Sequence[tuple[int, int]]) -> tuple[Columns, Ints]:
        """Return the kernels of many members at once.

        Args:
            members: Width and resolution of each `[N]`.

        Returns:
            All kernels `[L]`, and `[L]` the index of the member that each one belongs to; members are not in order.
        """
        alike: dict[int, tuple[_Structure, list[int]]] = {}
        parts: list[Columns] = []
        owners: list[Ints] = []
        for index, member in enumerate(members):
            structure = self._structure(*member)
            if structure is None:
                parts.append(self._member(*member).graph.columns)
                owners.append(np.full(len(parts[-1]), index))
            else:
                alike.setdefault(id(structure), (structure, []))[1].append(index)
        for structure, indices in alike.values():
            parts.append(_columns(structure, structure.numbers([members[index] for index in indices])))
            owners.append(np.repeat(np.array(indices), len(structure.kind)))
        columns, _ = concatenated(parts)
        return columns, np.concatenate(owners)

    def _structure(self, width: int, resolution: int) -> _Structure | None:
        reference = self._reference(width, resolution)
        member = self._member(width, reference)
        structure = self._structures.get((reference, member.key))
        if structure is None:
            columns = member.graph.columns
            structure = _Structure(width, reference, columns.kind, columns.kernel_area)
            self._structures[reference, member.key] = structure
        structure.widths.setdefault(width, member.numbers)
        if resolution not in structure.resolutions:
            other = self._member(structure.width, resolution)
            if other.key != member.key:
                return None
            structure.resolutions[resolution] = other.numbers
        if structure.is_product is None and width != structure.width and resolution != structure.resolution:
            itself = self._member(width, resolution)
            follows = np.array_equal(itself.numbers, structure.numbers([(width, resolution)])[0])
            structure.is_product = itself.key == member.key and follows
        return None if structure.is_product is False else structure

    def _reference(self, width: int, resolution: int) -> int:
        self._probe_width = width if self._probe_width is None else self._probe_width
        return self._reference_of.setdefault(self._member(self._probe_width, resolution).key, resolution)


def _member(graph: LayerGraph) -> _Member:
    numbers = np.array([[getattr(layer, name) for name in _NUMBERS] for layer in graph.layers], dtype=np.int64)
    wrong = [layer.name for layer, row in zip(graph.layers, numbers, strict=True) if layer.macs != _macs(row)]
    if wrong:
        raise DataError(f"{graph.name}: multiply-accumulates of {wrong[0]!r} are not rows x columns x inner x groups")
    rows = sorted({layer.gemm_m for layer in graph.layers})
    key = tuple(
        (layer.kind, layer.kernel_area, layer.fused_pointwise, layer.fused_residual, rows.index(layer.gemm_m))
        for layer in graph.layers
    )
    return _Member(graph, key, numbers)


def _with_numbers(layer: Layer, row: Ints) -> Layer:
    numbers: dict[str, Any] = dict(zip(_NUMBERS, map(int, row), strict=True))
    return dataclasses.replace(layer, macs=_macs(row), **numbers)


def _macs(row: Ints) -> int:
    return int(np.prod(row[3:]))


def _columns(structure: _Structure, numbers: Ints) -> Columns:
    count = len(numbers)
    named = dict(zip(_NUMBERS, numbers.reshape(-1, len(_NUMBERS)).T, strict=True))
    return Columns(
        kind=np.tile(structure.kind, count),
        macs=named["gemm_m"] * named["gemm_n"] * named["gemm_k"] * named["groups"],
        kernel_area=np.tile(structure.kernel_area, count),
        **named,
    )
