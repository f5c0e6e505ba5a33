"""Where a network can be tapped for feature distillation, and which tap of a student goes with which of a teacher.

A tap is a module path: the feature is what a forward hook on that module sees. Only modules that run exactly once
are taps (a ReLU shared by several layers has no one output), and only those whose output is a map `[B, C, H, W]`,
states of tokens `[B, L, D]` or a feature `[B, d]` that nothing overwrites in place later. Plain containers repeat the
output of their last child and are left out. Where a network pools and flattens in its `forward`, no module gives the
feature that enters the classifier `fc`: its path is `fc:input`. Where the classifier is a convolution of 1 x 1 whose
output is pooled, `conv:input` is what enters it, averaged over the positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.models.evaluation import run_on_zeros, takes_tokens

_PROBE_BATCH = 2
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_INPUT = ":input"


@dataclass(frozen=True)
class Tap:
    """A place where a feature can be read.

    Attributes:
        path: Module path, as in `module.named_modules()`, or that of the classifier with `:input`.
        shape: Shape of its output without the batch: `(C, H, W)`, `(L, D)` or `(d,)`.
        depth: Share of the convolution and linear layers that have run when it is ready, 0..1.
    """

    path: str
    shape: tuple[int, ...]
    depth: float

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels; a pooled feature is 1 x 1, and so are states of tokens."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else (1, 1)


@dataclass(frozen=True)
class _Sighting:
    path: str
    output: Tensor
    version: int
    layers_run: int
    is_container: bool

    @property
    def nesting(self) -> int:
        return 0 if self.path.endswith(_INPUT) else self.path.count(".")


@dataclass(frozen=True)
class _Trace:
    sightings: tuple[_Sighting, ...]
    output: object
    layers: int
    head: _Sighting | None

    def of(self, path: str) -> list[_Sighting]:
        return [seen for seen in self.sightings if seen.path == path]

    def is_past_head(self, seen: _Sighting) -> bool:
        return self.head is not None and seen.layers_run > self.head.layers_run

    def usable(self) -> list[_Sighting]:
        runs = Counter(seen.path for seen in self.sightings)
        fit = [seen for seen in self.sightings if runs[seen.path] == 1 and seen.layers_run > 0]
        return [seen for seen in fit if _problem(seen) is None]

    def tap(self, seen: _Sighting) -> Tap:
        return Tap(seen.path, tuple(seen.output.shape[1:]), seen.layers_run / self.layers if self.layers else 0.0)


def trace_taps(module: nn.Module, input_shape: tuple[int, ...]) -> list[Tap]:
    """List every tap of a network in the order of execution, the logits among them.

    Args:
        module: Any network with one input; it runs once on zeros in evaluation mode.
        input_shape: `(C, H, W)`, or `(L,)` of tokens.
    """
    trace = _watch(module, input_shape)
    return [trace.tap(seen) for seen in trace.usable() if not seen.is_container]


def discover_taps(module: nn.Module, input_shape: tuple[int, ...]) -> list[Tap]:
    """List the stage ends of a network, shallow to deep: one tap of each resolution.

    Of all outputs at a resolution it is the least nested one, of these the deepest: the end of a stage rather than
    something inside the first block of the next. The output of a container counts as nested as the container, and is
    reported as the child that made it. The last tap is the pooled feature `[B, d]` where the network has one; the
    logits are not a feature and left out. States of tokens have no resolution that changes: every least nested one is
    listed, the ends of the layers; what else has four dimensions there (attention) is no map.

    Args:
        module: Any network with one input; it runs once on zeros in evaluation mode.
        input_shape: `(C, H, W)`, or `(L,)` of tokens.
    """
    trace, is_text = _watch(module, input_shape), takes_tokens(module, input_shape)
    makers: dict[tuple[int, int], list[_Sighting]] = {}
    for seen in trace.usable():
        if seen.output is not trace.output and not trace.is_past_head(seen):
            makers.setdefault((id(seen.output), seen.version), []).append(seen)
    ends: dict[tuple[int, int], tuple[int, Tap]] = {}
    states: list[tuple[int, Tap]] = []
    for same in makers.values():
        named = [seen for seen in same if not seen.is_container]
        if not named:
            continue
        nesting = min(seen.nesting for seen in same)
        tap = trace.tap(min(named, key=lambda seen: seen.nesting))
        if len(tap.shape) == 2:
            states.append((nesting, tap))
        elif len(tap.shape) == 3 and is_text:
            continue
        elif tap.resolution not in ends or nesting <= ends[tap.resolution][0]:
            ends.pop(tap.resolution, None)
            ends[tap.resolution] = (nesting, tap)
    outermost = min((nesting for nesting, _ in states), default=0)
    found = [*(tap for nesting, tap in states if nesting == outermost), *(tap for _, tap in ends.values())]
    return sorted(found, key=lambda tap: tap.depth)


def taps_at(module: nn.Module, input_shape: tuple[int, ...], paths: Sequence[str]) -> list[Tap]:
    """Describe the taps at given module paths, containers allowed, in the order given.

    Args:
        module: Any network with one input; it runs once on zeros in evaluation mode.
        input_shape: `(C, H, W)`, or `(L,)` of tokens.
        paths: Module paths.

    Raises:
        ConfigError: A path names no module, or a module that does not run exactly once or whose output is none of
            `[B, C, H, W]`, `[B, L, D]` and `[B, d]`.
    """
    known = tap_paths(module)
    for path in paths:
        if path not in known:
            raise unknown_name("module path", path, known)
    trace = _watch(module, input_shape)
    return [_only_tap(trace, path) for path in paths]


def watched_at(module: nn.Module, path: str) -> tuple[nn.Module, bool]:
    """Return the module that a tap is at, and whether it is the module's input that is tapped.

    Args:
        module: The network.
        path: Path of a tap.
    """
    return module.get_submodule(path.removesuffix(_INPUT)), path.endswith(_INPUT)


def feature_entering(value: Tensor) -> Tensor:
    """Return what enters a classifier as a feature `[B, d]`: a map `[B, d, H, W]` is averaged over its positions."""
    return value.mean(dim=(2, 3)) if value.dim() == 4 else value


def tap_paths(module: nn.Module) -> set[str]:
    """Return every path that may be tapped: modules, and inputs of linear layers and convolutions of 1 x 1."""
    named = [(path, layer) for path, layer in module.named_modules() if path]
    return {path for path, _ in named} | {path + _INPUT for path, layer in named if _can_classify(layer)}


def pair_taps(student: Sequence[Tap], teacher: Sequence[Tap]) -> list[tuple[Tap, Tap]]:
    """Pair taps of equal resolution and rank, each used once, without crossings.

    As many pairs as possible; among those the least sum of differences in relative depth.

    Args:
        student: Taps of the student.
        teacher: Taps of the teacher.

    Returns:
        `(student tap, teacher tap)` shallow to deep; empty when no resolution is shared.
    """
    rows = sorted(student, key=lambda tap: tap.depth)
    columns = sorted(teacher, key=lambda tap: tap.depth)
    best: list[list[tuple[int, float, tuple[tuple[Tap, Tap], ...]]]] = [[(0, 0.0, ())] * (len(columns) + 1)]
    for row in rows:
        above, line = best[-1], [best[-1][0]]
        for index, column in enumerate(columns):
            choices = [above[index + 1], line[index]]
            if _matches(row, column):
                count, cost, pairs = above[index]
                choices.append((count + 1, cost + abs(row.depth - column.depth), (*pairs, (row, column))))
            line.append(max(choices, key=lambda choice: (choice[0], -choice[1])))
        best.append(line)
    return list(best[-1][-1][2])


def _matches(student: Tap, teacher: Tap) -> bool:
    return len(student.shape) == len(teacher.shape) and student.resolution == teacher.resolution


def _watch(module: nn.Module, input_shape: tuple[int, ...]) -> _Trace:
    sightings: list[_Sighting] = []
    entering: list[tuple[_Sighting, Tensor]] = []
    layers_run = 0

    def watcher(path: str) -> Callable[[nn.Module, Any, object], None]:
        def watch(layer: nn.Module, inputs: Any, output: object) -> None:
            nonlocal layers_run
            if _can_classify(layer) and isinstance(output, Tensor) and len(inputs) == 1:
                feature = feature_entering(inputs[0])
                entering.append((_Sighting(path + _INPUT, feature, feature._version, layers_run, False), output))
            layers_run += isinstance(layer, _WEIGHTED)
            if isinstance(output, Tensor):
                is_container = isinstance(layer, _CONTAINERS)
                sightings.append(_Sighting(path, output, output._version, layers_run, is_container))

        return watch

    handles = [layer.register_forward_hook(watcher(path)) for path, layer in module.named_modules() if path]
    try:
        output = run_on_zeros(module, input_shape, batch=_PROBE_BATCH)
    finally:
        for handle in handles:
            handle.remove()
    head = _head_of(entering, output, layers_run)
    if head is not None and not any(seen.output is head.output for seen in sightings):
        sightings.append(head)
    return _Trace(tuple(sightings), output, layers_run, head)


def _can_classify(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return set(layer.kernel_size) == {1} and layer.groups == 1
    return isinstance(layer, nn.Linear)


def _head_of(entering: Sequence[tuple[_Sighting, Tensor]], output: object, layers: int) -> _Sighting | None:
    """Return what enters the classifier: the last layer with weights, if it gives what is put out, pooled or not."""
    if not entering or not isinstance(output, Tensor):
        return None
    seen, given = entering[-1]
    is_last = seen.layers_run == layers - 1
    return seen if is_last and seen.output.dim() == 2 and given.shape[:2] == output.shape else None


def _only_tap(trace: _Trace, path: str) -> Tap:
    found = trace.of(path)
    if len(found) != 1:
        raise ConfigError(f"module {path!r} gives {len(found)} tensors in one forward pass; a tap gives exactly one")
    problem = _problem(found[0])
    if problem is not None:
        raise ConfigError(problem)
    return trace.tap(found[0])


def _problem(seen: _Sighting) -> str | None:
    shape = list(seen.output.shape)
    if len(shape) not in (2, 3, 4) or shape[0] != _PROBE_BATCH:
        forms = "[B, C, H, W], [B, L, D] or [B, d]"
        return f"module {seen.path!r} gives {shape} for a batch of {_PROBE_BATCH}; a tap gives {forms}"
    if seen.output._version != seen.version:
        return f"the output of module {seen.path!r} is overwritten in place later; tap the module that overwrites it"
    return None
