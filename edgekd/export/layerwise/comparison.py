"""Where two representations of a network start to differ: every layer in turn, or by bisection.

A tensor that departs although everything it was computed from is still fine names the culprit; one that was computed
from a tensor already wrong only inherits. Bisection computes one tensor a step and needs about log2 of their number,
for sides that cannot keep or even show their intermediate tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekd.core.errors import DataError
from edgekd.export.layerwise.errors import ErrorSum, TensorError, Tolerance
from edgekd.export.layerwise.graph import TensorGraph, size_bytes
from edgekd.export.layerwise.matching import Pair
from edgekd.export.layerwise.sides import Feeds, Side

PART_BYTES = 256 * 2**20
"""How much one side may hold of intermediate tensors at a time."""

Status = Literal["fine", "culprit", "inherits"]


@dataclass(frozen=True)
class LayerError:
    """One layer on both sides.

    Attributes:
        pair: The tensor.
        error: How far apart it is.
        status: `"culprit"` where it departs and all it was computed from does not, `"inherits"` where it departs and
            something before it did.
        inputs: The nearest compared tensors it was computed from, by the second side's names.
    """

    pair: Pair
    error: TensorError
    status: Status
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Layerwise:
    """The outcome.

    Attributes:
        reference: The first side, in words.
        candidate: The second.
        tolerance: What counted as fine.
        layers: What was compared, in topological order; of a bisection only what it looked at.
        culprit: The first layer that departs on its own; None where nothing departs (of a bisection: no output).
        culprits: All such layers.
        is_bisection: Only some layers were computed.
        runs: How often each side was run.
    """

    reference: str
    candidate: str
    tolerance: Tolerance
    layers: tuple[LayerError, ...]
    culprit: LayerError | None
    culprits: tuple[LayerError, ...]
    is_bisection: bool
    runs: int


@dataclass(frozen=True)
class Sides:
    """Two sides and how their tensors belong together.

    Attributes:
        reference: The first, taken to be right.
        candidate: The second.
        graph: How the second side's tensors depend on each other.
        pairs: Tensors of both, in topological order.
    """

    reference: Side
    candidate: Side
    graph: TensorGraph
    pairs: tuple[Pair, ...]


def compare_layers(
    sides: Sides, batches: Sequence[Feeds], tolerance: Tolerance, *, part_bytes: int = PART_BYTES
) -> Layerwise:
    """Compare every tensor that both sides have, in parts that fit into memory.

    Args:
        sides: What is compared.
        batches: Inputs; at least one batch.
        tolerance: What counts as fine.
        part_bytes: How much one side may hold at a time; a single tensor may be larger.

    Returns:
        Every layer with its error, and the culprits.

    Raises:
        DataError: The sides have no tensor in common, or there is no batch.
        ExportError: A side cannot be run.
    """
    _require_something(sides, batches)
    errors: dict[str, TensorError] = {}
    runs = 0
    for part in _parts(sides, batches[0], part_bytes):
        errors |= _errors(sides, part, batches)
        runs += len(batches)
    layers = _judged(sides, errors, tolerance)
    culprits = tuple(layer for layer in layers if layer.status == "culprit")
    first = culprits[0] if culprits else None
    return Layerwise(sides.reference.name, sides.candidate.name, tolerance, layers, first, culprits, False, runs)


def bisect_layers(sides: Sides, batches: Sequence[Feeds], tolerance: Tolerance) -> Layerwise:
    """Find a layer that departs on its own, computing one tensor a step.

    Args:
        sides: What is compared.
        batches: Inputs; at least one batch.
        tolerance: What counts as fine.

    Returns:
        The layers looked at, and the culprit behind the last tensor; None where that one is fine, even if something
        before it departs and recovers.

    Raises:
        DataError: The sides have no tensor in common, or there is no batch.
        ExportError: A side cannot be run.
    """
    _require_something(sides, batches)
    search = _Search(sides, batches, tolerance)
    last = sides.pairs[-1].candidate
    culprit = search.culprit_behind(last) if search.departs(last) else None
    layers = tuple(
        layer if layer.status == "fine" else _as(layer, "culprit" if layer.pair.candidate == culprit else "inherits")
        for layer in _judged(sides, search.errors, tolerance)
    )
    found = next((layer for layer in layers if layer.status == "culprit"), None)
    culprits = () if found is None else (found,)
    runs = len(search.errors) * len(batches)
    return Layerwise(sides.reference.name, sides.candidate.name, tolerance, layers, found, culprits, True, runs)


def _as(layer: LayerError, status: Status) -> LayerError:
    return dataclasses.replace(layer, status=status)


class _Search:
    """Remembers what was computed, so that nothing is computed twice."""

    def __init__(self, sides: Sides, batches: Sequence[Feeds], tolerance: Tolerance) -> None:
        self.errors: dict[str, TensorError] = {}
        self._sides = sides
        self._batches = batches
        self._tolerance = tolerance
        self._pairs = {pair.candidate: pair for pair in sides.pairs}

    def departs(self, tensor: str) -> bool:
        """Compute a tensor on both sides, if that was not done yet."""
        if tensor not in self.errors:
            self.errors |= _errors(self._sides, [self._pairs[tensor]], self._batches)
        return not self.errors[tensor].is_within(self._tolerance)

    def culprit_behind(self, tensor: str) -> str:
        """Return a tensor that departs although nothing it is computed from does, given one that departs."""
        while True:
            before = self._sides.graph.ancestors(tensor)
            line = [pair.candidate for pair in self._sides.pairs if pair.candidate in before] + [tensor]
            low, high = -1, len(line) - 1  # all before line[0] is input and fine; line[high] departs
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self.departs(line[middle]) else (middle, high)
            inputs = self._sides.graph.nearest(line[high], set(self._pairs))
            wrong = next((name for name in inputs if self.departs(name)), None)
            if wrong is None:
                return line[high]
            tensor = wrong  # another branch went wrong earlier; it has fewer ancestors, so this ends


def _require_something(sides: Sides, batches: Sequence[Feeds]) -> None:
    if not sides.pairs:
        raise DataError(
            f"{sides.reference.name} and {sides.candidate.name} have no tensor in common, by name or by position; "
            "export both from one network"
        )
    if not batches:
        raise DataError("no inputs are given to compare on")


def _errors(sides: Sides, part: Sequence[Pair], batches: Sequence[Feeds]) -> dict[str, TensorError]:
    sums = {pair.candidate: ErrorSum() for pair in part}
    for feeds in batches:
        first = sides.reference.values([pair.reference for pair in part], feeds)
        second = sides.candidate.values([pair.candidate for pair in part], feeds)
        for pair in part:
            sums[pair.candidate].add(first[pair.reference], second[pair.candidate])
    return {name: total.result() for name, total in sums.items()}


def _parts(sides: Sides, feeds: Feeds, part_bytes: int) -> Iterator[list[Pair]]:
    named = dict(zip(sides.graph.inputs, feeds.values(), strict=False))
    sizes = {name: size_bytes(*typed) for name, typed in sides.graph.typed(named).items()}
    largest = max((size for size in sizes.values() if size is not None), default=part_bytes)
    part: list[Pair] = []
    held = 0
    for pair in sides.pairs:
        size = sizes.get(pair.candidate) or largest
        if part and held + size > part_bytes:
            yield part
            part, held = [], 0
        part.append(pair)
        held += size
    yield part


def _judged(sides: Sides, errors: Mapping[str, TensorError], tolerance: Tolerance) -> tuple[LayerError, ...]:
    compared = set(errors)
    found = []
    for pair in sides.pairs:
        if pair.candidate not in errors:
            continue
        error = errors[pair.candidate]
        inputs = sides.graph.nearest(pair.candidate, compared)
        is_inherited = any(not errors[name].is_within(tolerance) for name in inputs)
        status: Status = "fine"
        if not error.is_within(tolerance):
            status = "inherits" if is_inherited else "culprit"
        found.append(LayerError(pair, error, status, inputs))
    return tuple(found)
