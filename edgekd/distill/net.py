"""A network seen through hooks: its backbone unchanged, taps by module path, attachments beside it.

Attachments are auxiliary modules that read the backbone's features during training. They live next to the backbone,
never inside it, so that the exported network cannot contain them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.data import Batch, Kind
from edgekd.distill.attachments import Attachment
from edgekd.distill.step import Step
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.models import discover_taps, evaluating, feature_entering, tap_paths, taps_at, watched_at, zeros_for

Part = Literal["backbone", "attachments"]
Backbone: TypeAlias = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Inputs to logits and module outputs by path."""
Recalling: TypeAlias = Callable[[Batch, Step], Trace]
"""A batch of the training split to the trace that a frozen network gave of it before."""


class TracedNet(nn.Module):
    """A backbone, the module paths it is tapped at, and its attachments.

    Args:
        backbone: Inputs as networks take them, pictures `[B, C, H, W]` in 0..1 or tokens `[B, L]`, to logits, of an
            input or of each pixel, or to Gaussians.
        penultimate: Path of the module whose output, `[B, D]` or `[B, C, H, W]`, feeds the classifier.
        resolution: Height and width the backbone wants; inputs of another size are resized. 0 takes them as they are.
        embedded: Path of the module whose output stands for tokens where a gradient with respect to the input is asked
            for; empty for pictures.
        kind: What its output is for.
        modalities: Paths of the embeddings of the input's channel groups.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        penultimate: str,
        resolution: int = 0,
        embedded: str = "",
        kind: Kind = "classification",
        modalities: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.attachments = nn.ModuleDict()
        self.penultimate = penultimate
        self.resolution = resolution
        self.embedded = embedded
        self.kind: Kind = kind
        self.modalities = modalities
        self.taps: tuple[str, ...] = ()
        self.traces_input_gradient = False
        self.gradient_taps: tuple[str, ...] = ()
        self.run_backbone: Backbone | None = None
        self.recall: Recalling | None = None

    def attach(self, attachments: Mapping[str, nn.Module]) -> None:
        """Add attachments (see `edgekd.distill.attachments`); they replace those of the same name."""
        self.attachments.update(dict(attachments))

    def tap(self, paths: Iterable[str], *, input_gradient: bool = False, gradients: Iterable[str] = ()) -> None:
        """Choose what a trace carries.

        Args:
            paths: Modules whose outputs it carries.
            input_gradient: Whether it carries the gradient with respect to the input.
            gradients: Modules with respect to whose outputs it carries the gradient too; only beside the input's.

        Raises:
            ConfigError: An unknown path, or a gradient of class probabilities of a network that gives none.
        """
        if input_gradient and self.kind != "classification":
            raise ConfigError(f"a term reads the gradient of the top class's probability; {self.kind} has none")
        known = tap_paths(self.backbone)
        wanted, derived = tuple(dict.fromkeys(paths)), tuple(dict.fromkeys(gradients))
        for path in (*wanted, *derived):
            if path not in known:
                raise unknown_name("module to tap", path, known)
        self.taps, self.traces_input_gradient, self.gradient_taps = wanted, input_gradient, derived

    def forward(self, inputs: Tensor) -> Trace:
        """Run the backbone and its attachments.

        Args:
            inputs: `[B, C, H, W]` in 0..1, or tokens `[B, L]`.

        Returns:
            The trace, its feature maps those of `tap`.
        """
        logits, feats, gradients = self._watched_run(self._resized(inputs))
        aux: dict[str, Tensor] = {}
        for attachment in self.attachments.values():
            aux.update(attachment(feats))
        of_input, *of_feats = gradients or [None]
        by_path = dict(zip(self.gradient_taps, cast(list[Tensor], of_feats), strict=True)) if gradients else {}
        return Trace(logits, {path: feats[path] for path in self.taps}, aux, inputs, of_input, self.kind, by_path)

    def train_only(self, parts: Sequence[Part]) -> None:
        """Put the named parts in training mode with gradients, the rest in evaluation mode without."""
        set_trained(self.backbone, is_trained="backbone" in parts)
        set_trained(self.attachments, is_trained="attachments" in parts)

    def freeze(self) -> None:
        """Put everything in evaluation mode without gradients."""
        self.train_only(())

    @property
    def watched(self) -> tuple[str, ...]:
        """Every module path whose output a trace or an attachment needs."""
        read = [path for attachment in self.attachments.values() for path in cast(Attachment, attachment).reads]
        return tuple(dict.fromkeys([*self.taps, *self.gradient_taps, *read]))

    def _watched_run(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, ...]]:
        if self.run_backbone is not None:
            return *self.run_backbone(inputs), ()
        seen = Seen()
        handles = capture(self.backbone, self.watched, seen)
        try:
            logits, gradients = self._run(inputs, seen)
        finally:
            for handle in handles:
                handle.remove()
        return logits, seen.feats, gradients

    def _run(self, inputs: Tensor, seen: Seen) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and, where a term needs them, the gradients of the top class's probability.

        They are with respect to the input and to each of `gradient_taps`. A graph runs through them only where the
        caller keeps graphs at all.
        """
        if not self.traces_input_gradient:
            return self.backbone(inputs), ()
        is_kept = torch.is_grad_enabled()
        with torch.enable_grad():
            logits, origin = self._run_from_embedding(inputs) if self.embedded else self._run_from_leaf(inputs)
            confidence = logits.softmax(dim=1).amax(dim=1).sum()
            origins = [origin, *(seen.feats[path] for path in self.gradient_taps)]
            gradients = torch.autograd.grad(confidence, origins, create_graph=is_kept)
        return logits, gradients

    def _run_from_leaf(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        leaf = inputs.detach().requires_grad_()
        return self.backbone(leaf), leaf

    def _run_from_embedding(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        origins: list[Tensor] = []

        def begin(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
            origins.append(output if output.requires_grad else output.detach().requires_grad_())
            return origins[-1]

        handle = self.backbone.get_submodule(self.embedded).register_forward_hook(begin)
        try:
            logits: Tensor = self.backbone(tokens)
        finally:
            handle.remove()
        return logits, origins[0]

    def shape_seen(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an input as the backbone sees it, from that of the data."""
        return (*input_shape[:1], *(self.resolution or size for size in input_shape[1:]))

    def _resized(self, inputs: Tensor) -> Tensor:
        if self.resolution in (0, inputs.shape[-1]):
            return inputs
        size = (self.resolution, self.resolution)
        return F.interpolate(inputs, size=size, mode="bilinear", antialias=True, align_corners=False)


@dataclass
class Seen:
    """What a module's hooks saw in its last run.

    Attributes:
        feats: Module outputs by path.
    """

    feats: dict[str, Tensor] = field(default_factory=dict)


def capture(module: nn.Module, paths: Iterable[str], seen: Seen) -> list[RemovableHandle]:
    """Let every run of a module leave its outputs at these paths in `seen`, until the handles are removed."""

    def hooked(path: str) -> RemovableHandle:
        def keep(watched: nn.Module, arguments: object, output: Tensor) -> None:
            seen.feats[path] = output

        def keep_input(watched: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.feats[path] = feature_entering(*arguments)

        watched, is_input = watched_at(module, path)
        return watched.register_forward_pre_hook(keep_input) if is_input else watched.register_forward_hook(keep)

    return [hooked(path) for path in paths]


def set_trained(module: nn.Module, *, is_trained: bool) -> None:
    """Put a module in training mode with gradients, or in evaluation mode without."""
    module.train(is_trained)
    module.requires_grad_(is_trained)


def modules_after(net: TracedNet, path: str, input_shape: tuple[int, ...]) -> list[nn.Module]:
    """Return the backbone's modules without children that start after the tap at `path` has been passed.

    Args:
        net: The network; it runs once on zeros in evaluation mode.
        path: Path of a tap in the backbone.
        input_shape: `(C, H, W)` of the data, before any resizing.

    Raises:
        ConfigError: An unknown path.
    """
    known, possible = dict(net.backbone.named_modules()), tap_paths(net.backbone)
    if path not in possible:
        raise unknown_name("module", path, possible)
    tapped, is_input = watched_at(net.backbone, path)
    finished: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: finished.append(name)) for name, module in known.items()
    ]
    try:
        trace_on_zeros(net, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    first = next(index for index, name in enumerate(finished) if known[name] is tapped)
    later = finished[first + (not is_input) :]
    return [known[name] for name in dict.fromkeys(later) if not any(known[name].children())]


def trace_spec(net: TracedNet, input_shape: tuple[int, ...]) -> TraceSpec:
    """Find what a network's traces can carry by running it once on zeros in evaluation mode.

    Args:
        net: The network; its mode, gradients and buffers are left as they were.
        input_shape: `(C, H, W)` of the data, before any resizing, or `(L,)` of tokens.

    Returns:
        The shapes.

    Raises:
        ConfigError: The penultimate feature or a modality's embedding is no feature that can be tapped.
    """
    seen = net.shape_seen(input_shape)
    feats = {tap.path: tuple(tap.shape) for tap in discover_taps(net.backbone, seen)}
    if net.penultimate not in feats:
        raise ConfigError(f"module {net.penultimate!r} gives no feature to attach to; found {', '.join(feats)}")
    feats |= {tap.path: tuple(tap.shape) for tap in taps_at(net.backbone, seen, net.modalities)}
    trace = trace_on_zeros(net, input_shape)
    aux = {name: tuple(value.shape[1:]) for name, value in trace.aux.items()}
    classes, *positions = trace.logits.shape[1:]
    return TraceSpec(classes, feats, net.penultimate, aux, tuple(positions), net.kind, net.modalities)


def trace_on_zeros(net: TracedNet, input_shape: tuple[int, ...]) -> Trace:
    """Return the trace of a batch of zeros, in evaluation mode; see `trace_spec`."""
    with evaluating(net):
        trace: Trace = net(zeros_for(net, input_shape, batch=2))
    return trace
