"""Where a network can be tapped for feature distillation, and which tap of a student goes with which of a teacher.

A tap is a module path: the feature is what a forward hook on that module sees. Only modules that run exactly once
are taps (a ReLU shared by several layers has no one output), and only those whose output is a map `[B, C, H, W]` or a
feature `[B, d]` that nothing overwrites in place later. Plain containers repeat the output of their last child and
are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.models.evaluation import run_on_zeros

_PROBE_BATCH = 2
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Tap:
    """A place where a feature can be read.

    Attributes:
        path: Module path, as in `module.named_modules()`.
        shape: Shape of its output without the batch: `(C, H, W)` or `(d,)`.
        depth: Share of the convolution and linear layers that have run when it is ready, 0..1.
    """

    path: str
    shape: tuple[int, ...]
    depth: float

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels; a pooled feature is 1 x 1."""
        return (self.shape[1], self.shape[2]) if len(self.shape) == 3 else (1, 1)


@dataclass(frozen=True)
class _Sighting:
    path: str
    output: Tensor
    version: int
    layers_run: int


def trace_taps(module: nn.Module, input_shape: tuple[int, ...]) -> list[Tap]:
    """List every tap of a network in the order of execution, the logits among them.

    Args:
        module: Any network with one input; it runs once on zeros in evaluation mode.
        input_shape: `(C, H, W)`.
    """
    sightings, _ = _watch(module, input_shape)
    total = max((seen.layers_run for seen in sightings), default=0)
    usable = [seen for seen in sightings if _is_tap(module, seen, sightings)]
    return [_tap(seen, total) for seen in usable]


def discover_taps(module: nn.Module, input_shape: tuple[int, ...]) -> list[Tap]:
    """List the deepest tap of each resolution, shallow to deep; the logits are not a feature and left out.

    The last one is the pooled feature `[B, d]` where the network has one.

    Args:
        module: Any network with one input; it runs once on zeros in evaluation mode.
        input_shape: `(C, H, W)`.
    """
    sightings, output = _watch(module, input_shape)
    total = max((seen.layers_run for seen in sightings), default=0)
    deepest: dict[tuple[int, int], Tap] = {}
    for seen in sightings:
        if _is_tap(module, seen, sightings) and seen.output is not output:
            tap = _tap(seen, total)
            deepest.pop(tap.resolution, None)
            deepest[tap.resolution] = tap
    return list(deepest.values())


def taps_at(module: nn.Module, input_shape: tuple[int, ...], paths: Sequence[str]) -> list[Tap]:
    """Describe the taps at given module paths, containers allowed, in the order given.

    Args:
        module: Any network with one input; it runs once on zeros in evaluation mode.
        input_shape: `(C, H, W)`.
        paths: Module paths.

    Raises:
        ConfigError: A path names no module, or a module that does not run exactly once or whose output is neither
            `[B, C, H, W]` nor `[B, d]`.
    """
    names = dict(module.named_modules())
    for path in paths:
        if path not in names:
            raise unknown_name("module path", path, filter(None, names))
    sightings, _ = _watch(module, input_shape)
    total = max((seen.layers_run for seen in sightings), default=0)
    return [_only_tap(path, sightings, total) for path in paths]


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


def _watch(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[list[_Sighting], object]:
    sightings: list[_Sighting] = []
    layers_run = 0

    def watcher(path: str) -> Callable[[nn.Module, Any, object], None]:
        def watch(layer: nn.Module, _inputs: Any, output: object) -> None:
            nonlocal layers_run
            layers_run += isinstance(layer, _WEIGHTED)
            if isinstance(output, Tensor):
                sightings.append(_Sighting(path, output, output._version, layers_run))

        return watch

    handles = [layer.register_forward_hook(watcher(path)) for path, layer in module.named_modules() if path]
    try:
        output = run_on_zeros(module, input_shape, batch=_PROBE_BATCH)
    finally:
        for handle in handles:
            handle.remove()
    return sightings, output


def _is_tap(module: nn.Module, seen: _Sighting, sightings: Sequence[_Sighting]) -> bool:
    if isinstance(module.get_submodule(seen.path), _CONTAINERS):
        return False
    return _problem(seen.path, [other for other in sightings if other.path == seen.path]) is None


def _only_tap(path: str, sightings: Sequence[_Sighting], total: int) -> Tap:
    found = [seen for seen in sightings if seen.path == path]
    problem = _problem(path, found)
    if problem is not None:
        raise ConfigError(problem)
    return _tap(found[0], total)


def _problem(path: str, found: Sequence[_Sighting]) -> str | None:
    if len(found) != 1:
        return f"module {path!r} gives {len(found)} tensors in one forward pass; a tap gives exactly one"
    shape = tuple(found[0].output.shape)
    if len(shape) not in (2, 4) or shape[0] != _PROBE_BATCH:
        return f"module {path!r} gives {list(shape)} for a batch of {_PROBE_BATCH}; a tap gives [B, C, H, W] or [B, d]"
    if found[0].output._version != found[0].version:
        return f"the output of module {path!r} is overwritten in place later; tap the module that overwrites it"
    return None


def _tap(seen: _Sighting, total: int) -> Tap:
    return Tap(seen.path, tuple(seen.output.shape[1:]), seen.layers_run / total if total else 0.0)
