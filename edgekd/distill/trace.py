"""What one forward of one network exposes, and the names by which terms ask for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from edgekd.core.errors import ConfigError, unknown_name

Depth = Literal["first", "middle", "last"]


@dataclass(frozen=True)
class Trace:
    """One forward of one network.

    Attributes:
        logits: `[B, K]`.
        feats: Feature maps by module path, `[B, C, H, W]`, states of tokens `[B, L, D]`, or `[B, D]`.
        aux: Outputs of attachments by name (codes, extra logits).
        inputs: What the forward was run on, `[B, C, H, W]` in 0..1, or tokens `[B, L]`, 0 where a text is filled up.
        input_gradient: Gradient of the top class's probability, of the shape of the inputs the backbone saw, or with
            respect to the embedded tokens `[B, L, D]`; None unless a term needs it.
    """

    logits: Tensor
    feats: Mapping[str, Tensor]
    aux: Mapping[str, Tensor]
    inputs: Tensor
    input_gradient: Tensor | None = None

    def detached(self) -> Trace:
        """Return the same trace cut off from the graph."""
        return Trace(
            self.logits.detach(),
            {name: feat.detach() for name, feat in self.feats.items()},
            {name: value.detach() for name, value in self.aux.items()},
            self.inputs.detach(),
            None if self.input_gradient is None else self.input_gradient.detach(),
        )


@dataclass(frozen=True)
class TraceSpec:
    """Shapes that a network's traces have, without the batch dimension.

    Attributes:
        num_classes: Length of the logits.
        feats: Shape by module path, shallow to deep: every place that may be tapped.
        penultimate: Path of the `[B, D]` feature that feeds the classifier.
        aux: Shape by attachment output.
    """

    num_classes: int
    feats: Mapping[str, tuple[int, ...]]
    penultimate: str
    aux: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def feature_width(self) -> int:
        """Width of the penultimate feature."""
        return math.prod(self.feats[self.penultimate])

    @property
    def maps(self) -> dict[str, tuple[int, ...]]:
        """The tappable places that are feature maps `(C, H, W)`, shallow to deep."""
        return {path: shape for path, shape in self.feats.items() if len(shape) == 3}

    @property
    def states(self) -> dict[str, tuple[int, ...]]:
        """The tappable places that are states of tokens `(L, D)`, shallow to deep."""
        return {path: shape for path, shape in self.feats.items() if len(shape) == 2}


def select(trace: Trace, name: str) -> Tensor:
    """Return the part of a trace called `name`: `"logits"`, `"aux:NAME"` or a module path.

    Raises:
        ConfigError: The trace has no such part.
    """
    if name == "logits":
        return trace.logits
    if name.startswith("aux:"):
        key = name.removeprefix("aux:")
        if key not in trace.aux:
            raise unknown_name("attachment output", key, trace.aux)
        return trace.aux[key]
    if name not in trace.feats:
        raise unknown_name("tapped module", name, trace.feats)
    return trace.feats[name]


def shape_of(spec: TraceSpec, name: str) -> tuple[int, ...]:
    """Return the shape of the part called `name` (see `select`); raises `ConfigError` when there is none."""
    if name == "logits":
        return (spec.num_classes,)
    known = spec.aux if name.startswith("aux:") else spec.feats
    key = name.removeprefix("aux:")
    if key not in known:
        raise unknown_name("attachment output" if known is spec.aux else "module to tap", key, known)
    return known[key]


def map_at(spec: TraceSpec, depth: Depth) -> str:
    """Return the path of the first, middle or last feature map; raises `ConfigError` when there is none."""
    maps = list(spec.maps)
    if not maps:
        raise ConfigError(f"{depth} feature map: the network has no feature map [B, C, H, W]")
    return maps[{"first": 0, "middle": len(maps) // 2, "last": len(maps) - 1}[depth]]


def require_same_width(student: TraceSpec, teacher: TraceSpec, part: str, target: str) -> None:
    """Raise `ConfigError` unless two parts have one shape, as losses on logits and codes need."""
    mine, theirs = shape_of(student, part), shape_of(teacher, target)
    if mine != theirs:
        raise ConfigError(f"student {part} has shape {mine}, teacher {target} has shape {theirs}; they must agree")
