"""What one forward of one network exposes, and the names by which terms ask for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.data import Kind

Depth = Literal["first", "middle", "last"]


@dataclass(frozen=True)
class Trace:
    """One forward of one network.

    Attributes:
        logits: What the network says: `[B, K]`, `[B, K, H, W]`, or means and log variances `[B, 2D]`.
        feats: Feature maps by module path, `[B, C, H, W]`, states of tokens `[B, L, D]`, or `[B, D]`.
        aux: Outputs of attachments by name (codes, extra logits).
        inputs: What the forward was run on: `[B, C, H, W]` in 0..1, or tokens `[B, L]`, 0 where a text is filled up.
        input_gradient: Gradient of the top class's probability, of the shape of the inputs the backbone saw, or with
            respect to the embedded tokens `[B, L, D]`; None unless a term needs it.
        kind: What the logits are for.
        feat_gradients: Gradient of the top class's probability with respect to module outputs, by path; empty unless
            a term needs them.
    """

    logits: Tensor
    feats: Mapping[str, Tensor]
    aux: Mapping[str, Tensor]
    inputs: Tensor
    input_gradient: Tensor | None = None
    kind: Kind = "classification"
    feat_gradients: Mapping[str, Tensor] = field(default_factory=dict)

    def detached(self) -> Trace:
        """Return the same trace cut off from the graph."""
        return Trace(
            self.logits.detach(),
            {name: feat.detach() for name, feat in self.feats.items()},
            {name: value.detach() for name, value in self.aux.items()},
            self.inputs.detach(),
            None if self.input_gradient is None else self.input_gradient.detach(),
            self.kind,
            {name: gradient.detach() for name, gradient in self.feat_gradients.items()},
        )


def class_logits(trace: Trace, reader: str) -> Tensor:
    """Return the logits of a trace for what reads class probabilities off them.

    Args:
        trace: One forward.
        reader: What reads them, for messages.

    Raises:
        ConfigError: They are means and log variances.
    """
    if trace.kind == "regression":
        raise ConfigError(f"{reader} reads class probabilities, this task is regression; use method kd or plain")
    return trace.logits


@dataclass(frozen=True)
class TraceSpec:
    """Shapes that a network's traces have, without the batch dimension.

    Attributes:
        num_classes: Length of the logits' channel axis; twice the targets in regression.
        feats: Shape by module path, shallow to deep: every place that may be tapped.
        penultimate: Path of the feature `[B, D]`, or of the map `[B, C, H, W]` for logits of pixels, that feeds the
            classifier.
        aux: Shape by attachment output.
        positions: `(H, W)` of logits of pixels, else empty.
        kind: What the logits are for.
        modalities: Paths of the embeddings `[B, D]` of the input's channel groups, in their order; empty where the
            network does not keep them apart.
    """

    num_classes: int
    feats: Mapping[str, tuple[int, ...]]
    penultimate: str
    aux: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    positions: tuple[int, ...] = ()
    kind: Kind = "classification"
    modalities: tuple[str, ...] = ()

    @property
    def feature_width(self) -> int:
        """Width of the penultimate feature; raises `ConfigError` where it is a map."""
        shape = self.feats[self.penultimate]
        if len(shape) == 3:
            raise ConfigError(
                f"this method reads one feature vector an input, and {self.penultimate!r} is a map {shape}; "
                "use method kd or cwd"
            )
        return math.prod(shape)

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of the logits."""
        return (self.num_classes, *self.positions)

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
        return spec.logits_shape
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
