"""Students cut from the teacher itself: the least important channels removed, the others kept with their weights.

`torch-pruning` finds which channels of which layers belong together. Whether a group of them can really be removed is
tried, not believed: one channel of it is set to zero in a copy and removed in another, and both copies must compute the
same. What fails (an output, a view of fixed size, a shortcut that pads with zeros, heads of attention) is left whole
and listed with its reason.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError, missing_package
from edgekd.models.evaluation import takes_tokens
from edgekd.models.surgery import changed_shapes, original_of, pruned_spec, reshaped, shapes_of

Ranking = Literal["uniform", "global"]
"""`uniform` keeps the same share of every group, `global` lets groups compete."""

_LEAST_SHARE = 0.1
_TOLERANCE = 1e-3
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_LISTED = 6


@dataclass(frozen=True)
class Prunable:
    """What of a network can be cut.

    Attributes:
        roots: Paths of the layers whose output channels can be removed, one of each group that belongs together.
        refusals: Why the others cannot, by path.
    """

    roots: tuple[str, ...]
    refusals: Mapping[str, str]


def find_prunable(net: nn.Module, input_shape: tuple[int, ...], *, name: str) -> Prunable:
    """Find the layers of a network whose channels can be removed, by removing one of each group in a copy.

    Args:
        net: The network; it is not changed.
        input_shape: `(C, H, W)`, or `(L,)` of tokens.
        name: Of the network, for messages.

    Raises:
        ConfigError: The network cannot be traced, or nothing of it can be removed; lists the layers and why.
        PreconditionError: torch-pruning is not installed.
    """
    inputs = _example(net, input_shape)
    roots: list[str] = []
    refusals: dict[str, str] = {}
    for path in _group_roots(net, inputs, name):
        reason = _refusal(net, inputs, path)
        if reason is None:
            roots.append(path)
        else:
            refusals[path] = reason
    if not roots:
        raise ConfigError(f"{name} cannot be pruned: {_listed(refusals) or 'it has no convolution or linear layer'}")
    return Prunable(tuple(roots), refusals)


def prune(
    net: nn.Module,
    spec: NetSpec,
    prunable: Prunable,
    *,
    keep: float,
    ranking: Ranking = "uniform",
    multiple: int = 1,
) -> tuple[NetSpec, dict[str, Tensor]]:
    """Remove the channels of least importance: the L2 norm of all weights that make or read them.

    Args:
        net: The network, trained; it is not changed.
        spec: Its architecture.
        prunable: What `find_prunable` found in it.
        keep: Share of the channels to keep, of those that can be removed.
        ranking: Whether every group keeps this share, or all together.
        multiple: Channels are kept in multiples of this where a group has so many.

    Returns:
        The pruned network's spec, and the weights that it inherits, by name.

    Raises:
        ConfigError: `keep` is not between 0 and 1, or what is left cannot be rebuilt from its spec.
        PreconditionError: torch-pruning is not installed.
    """
    if not 0 < keep <= 1:
        raise ConfigError(f"share of channels to keep is {keep:g}, it must be above 0 and at most 1")
    inputs = _example(net, spec.input_shape)
    cut = copy.deepcopy(net).eval()
    graph = _graph(cut, inputs)
    importances = {path: _importance(graph, cut, path) for path in prunable.roots}
    _cut(graph, cut, importances, _kept_channels(importances, keep=keep, ranking=ranking, multiple=multiple))
    shapes = changed_shapes(net, cut)
    found = pruned_spec(spec, shapes, label=f"{ranking[0]}{keep:g}".replace("0.", "."))
    state = {name: value.detach().clone() for name, value in cut.state_dict().items()}
    _require_rebuilt(net, cut, shapes, inputs, found)
    return found, state


def prune_like(net: nn.Module, spec: NetSpec, student: NetSpec) -> dict[str, Tensor]:
    """Return what a student that was cut from a network inherits of it, by the importance that its channels have now.

    A student's size can be chosen before its teacher is trained; this gives its weights afterwards.

    Args:
        net: The network, trained; it is not changed.
        spec: Its architecture.
        student: Spec that `prune` returned for a network of this architecture.

    Returns:
        The weights by name, equal to what `prune` gives for this network and the student's size.

    Raises:
        ConfigError: The student was cut from another architecture.
        PreconditionError: torch-pruning is not installed.
        StorageError: The student's spec is damaged.
    """
    if original_of(student).digest != spec.digest:
        raise ConfigError(f"{student.name} was cut from {original_of(student).name}, not from this {spec.name}")
    shapes, inputs = shapes_of(student), _example(net, spec.input_shape)
    like, cut = reshaped(net, shapes, name=student.name), copy.deepcopy(net).eval()
    roots = list(_group_roots(net, inputs, spec.name))
    graph = _graph(cut, inputs)
    pruners = {path: graph.get_pruner_of_module(cut.get_submodule(path)) for path in roots}
    counts = {path: pruners[path].get_out_channels(like.get_submodule(path)) for path in roots}
    smaller = [path for path in roots if counts[path] < pruners[path].get_out_channels(cut.get_submodule(path))]
    importances = {path: _importance(graph, cut, path) for path in smaller}
    _cut(graph, cut, importances, {path: counts[path] for path in smaller})
    if changed_shapes(net, cut) != shapes:
        raise ConfigError(f"{spec.name} cannot be cut to the channels of {student.name}")
    return {name: value.detach().clone() for name, value in cut.state_dict().items()}


def _cut(graph: Any, net: nn.Module, importances: Mapping[str, Tensor], kept: Mapping[str, int]) -> None:
    """Remove the least important channels of each group until so many are left."""
    for path, count in kept.items():
        least = importances[path].argsort()[: len(importances[path]) - count]
        if len(least):
            _group(graph, net, path, sorted(least.tolist())).prune()


def _kept_channels(
    importances: Mapping[str, Tensor], *, keep: float, ranking: Ranking, multiple: int
) -> dict[str, int]:
    if ranking == "uniform":
        wanted = {path: keep * len(values) for path, values in importances.items()}
    else:
        together = torch.cat(list(importances.values())).sort(descending=True).values
        threshold = together[max(0, math.ceil(keep * len(together)) - 1)]
        wanted = {path: float((values >= threshold).sum()) for path, values in importances.items()}
    kept = {}
    for path, count in wanted.items():
        size = len(importances[path])
        least = max(1, math.ceil(_LEAST_SHARE * size))
        rounded = round(count / multiple) * multiple if size >= 2 * multiple else round(count)
        kept[path] = min(size, max(least, rounded, min(multiple, size)))
    return kept


def _refusal(net: nn.Module, inputs: Tensor, path: str) -> str | None:
    """Remove one channel in a copy; returns what is wrong with that, or None."""
    cut, silenced = copy.deepcopy(net).eval(), copy.deepcopy(net).eval()
    try:
        graph = _graph(cut, inputs)
        full = _group(graph, cut, path, list(range(graph.get_out_channels(cut.get_submodule(path)))))
        channel = len(full[0].idxs) // 3
        group = _group(graph, cut, path, [channel])
        if not graph.check_pruning_group(group):
            return "it has one channel"
        is_normalised = any(isinstance(dep.target.module, _NORMS) for dep, _ in group)
        _silence(group, graph, cut, silenced)
        group.prune()
    except Exception as error:  # the library raises whatever its walk through foreign code meets
        return f"torch-pruning cannot cut it ({type(error).__name__}: {_first_line(error)})"
    with torch.no_grad():
        before = silenced(inputs)
        try:
            after = cut(inputs)
        except Exception as error:  # the user's forward
            return f"the network does not run with fewer channels there ({type(error).__name__}: {_first_line(error)})"
    if after.shape != before.shape:
        return "its channels are the network's output"
    off = float((after - before).abs().max()) / max(1.0, float(before.abs().max()))
    if not is_normalised and not off <= _TOLERANCE:
        return "its channels have fixed places: removing one moves the others"
    return None


@torch.no_grad()
def _silence(group: Any, graph: Any, cut: nn.Module, silenced: nn.Module) -> None:
    """Set the channels of a group to zero in a copy, wherever a layer makes them."""
    paths = {module: path for path, module in cut.named_modules()}
    for dep, idxs in group:
        target = dep.target.module
        if isinstance(target, nn.Parameter):
            parameter = silenced.get_parameter(graph._param_to_name[target])
            parameter.index_fill_(dep.target.pruning_dim, torch.tensor(idxs), 0.0)
            continue
        if target not in paths or not graph.is_out_channel_pruning_fn(dep.handler):
            continue
        layer = silenced.get_submodule(paths[target])
        axis = 1 if isinstance(layer, nn.Embedding | nn.ConvTranspose2d | nn.ConvTranspose1d) else 0
        for tensor, along in ((getattr(layer, "weight", None), axis), (getattr(layer, "bias", None), 0)):
            if isinstance(tensor, Tensor) and not isinstance(layer, nn.PReLU):
                tensor.index_fill_(along, torch.tensor(idxs), 0.0)


def _require_rebuilt(
    net: nn.Module, cut: nn.Module, shapes: Mapping[str, tuple[int, ...]], inputs: Tensor, spec: NetSpec
) -> None:
    again = reshaped(net, shapes, name=spec.name).eval()
    again.load_state_dict(cut.state_dict())
    with torch.no_grad():
        try:
            is_equal = torch.allclose(again(inputs), cut(inputs), rtol=1e-4, atol=1e-5)
        except Exception as error:
            raise ConfigError(f"{spec.name} does not run when rebuilt from its spec: {_first_line(error)}") from error
    if not is_equal:
        raise ConfigError(f"{spec.name} computes something else when rebuilt from its spec: report this network")


def _group_roots(net: nn.Module, inputs: Tensor, name: str) -> Iterator[str]:
    probe = copy.deepcopy(net).eval()
    paths = {module: path for path, module in probe.named_modules()}
    try:
        graph = _graph(probe, inputs)
        groups = list(graph.get_all_groups())
    except Exception as error:
        raise ConfigError(f"{name} cannot be pruned: torch-pruning cannot follow it: {_first_line(error)}") from error
    yield from (paths[group[0].dep.target.module] for group in groups)


def _graph(net: nn.Module, inputs: Tensor) -> Any:
    """Trace a copy of a network. Tracing follows gradients, which frozen weights would not have."""
    pruning = _import()
    for parameter in net.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    with _quiet(), torch.enable_grad():
        return pruning.DependencyGraph().build_dependency(net, example_inputs=inputs, verbose=False)


def _group(graph: Any, net: nn.Module, path: str, channels: Sequence[int]) -> Any:
    module = net.get_submodule(path)
    return graph.get_pruning_group(module, graph.get_pruner_of_module(module).prune_out_channels, list(channels))


def _importance(graph: Any, net: nn.Module, path: str) -> Tensor:
    size = graph.get_out_channels(net.get_submodule(path))
    with _quiet():
        measure: Callable[[Any], Tensor] = _import().importance.GroupMagnitudeImportance(p=2)
        return measure(_group(graph, net, path, range(size))).detach().cpu()


@torch.no_grad()
def _example(net: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if takes_tokens(net, input_shape):
        return torch.randint(1, 2, (2, *input_shape), generator=generator)
    return torch.rand((2, *input_shape), generator=generator)


@contextmanager
def _quiet() -> Iterator[None]:
    logging.getLogger("torch_pruning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _listed(refusals: Mapping[str, str]) -> str:
    lines = [f"{path}: {reason}" for path, reason in refusals.items()]
    more = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "; ".join([*lines[:_LISTED], *more])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:160]


def _import() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise missing_package("torch_pruning", "prune", "cutting students from the teacher") from error
    module: ModuleType = torch_pruning
    return module
