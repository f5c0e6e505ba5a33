"""Which tensor of one side is which of the other: by name, by the node that makes it, by position, by module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import onnx
import torch
from torch import nn

from edgekd.export.layerwise.graph import TensorGraph, is_float
from edgekd.export.layerwise.sides import Feeds
from edgekd.export.node_names import module_of
from edgekd.export.torch_export import evaluation_copy

_CLIPPING = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class Pair:
    """A tensor on both sides.

    Attributes:
        reference: Its name on the first side.
        candidate: Its name on the second.
        node: Node of the second side that makes it.
        op: Operator of that node.
        by: How it was found: `"name"`, `"node"`, `"position"` or `"module"`.
    """

    reference: str
    candidate: str
    node: str
    op: str
    by: str

    @property
    def layer(self) -> str:
        """The node's name, or the tensor's where the node has none."""
        return self.node or self.candidate


def onnx_pairs(reference: TensorGraph, candidate: TensorGraph, feeds: Feeds) -> tuple[Pair, ...]:
    """Match the float tensors of two graphs.

    Equal names first, then outputs of nodes of equal names, then the longest common order of operators and shapes
    between those. What one side lacks (casts, quantisation) is left out. An activation that one side leaves to
    quantisation, whose integers end where it does, is compared after that.

    Args:
        reference: The first graph.
        candidate: The second.
        feeds: Inputs, to know shapes; by the first graph's names.

    Returns:
        Pairs in topological order of the second graph.
    """
    named = dict(zip(candidate.inputs, feeds.values(), strict=False))
    types = reference.typed(feeds), candidate.typed(named)
    first = [name for name in reference.tensors if is_float(types[0][name][0])]
    second = [name for name in candidate.tensors if is_float(types[1][name][0])]
    common = set(first)
    found = {name: (name, "name") for name in second if name in common}
    taken = set(found)
    nodes = {_place(reference, name): name for name in first if reference.producer[name].name}
    for name in second:
        twin = nodes.get(_place(candidate, name))
        if name not in found and twin is not None and twin not in taken:
            found[name] = (twin, "node")
    for other, name in _by_position((reference, candidate), (first, second), found, types=types):
        found[name] = (other, "position")
    order = {name: index for index, name in enumerate(candidate.tensors)}
    return tuple(
        _pair(candidate.producer[name], *_after_activation((reference, candidate), other, name), by)
        for name, (other, by) in sorted(found.items(), key=lambda item: order[item[0]])
    )


def torch_pairs(module: nn.Module, graph: TensorGraph, feeds: Feeds) -> tuple[tuple[Pair, ...], dict[str, str]]:
    """Match modules of a torch network with tensors of its export, by the module paths in the names of nodes.

    The last node of a module makes its output. Where the export folded a module away (a batch norm into its
    convolution), the tensor is that of the module folded in. Modules that run more than once, and those that return no
    single tensor, are left out.

    Args:
        module: The network.
        graph: Its export.
        feeds: Inputs; one batch is run to see which module feeds which.

    Returns:
        Pairs in topological order, and the module of each tensor.
    """
    calls = _recorded(module, feeds)
    types = graph.typed(feeds)
    last: dict[str, str] = {}
    for tensor in graph.tensors:
        path = module_of(graph.producer[tensor].name)
        while path:
            last[path] = tensor
            path = path.rpartition(".")[0]
    folded = {call.source: path for path, call in calls.items() if path not in last and call.source}
    modules: dict[str, str] = {}
    for path, tensor in last.items():
        end = path
        while end in folded:
            end = folded[end]
        call = calls.get(end)
        # what a module with children returns may be another of its tensors; of a leaf a wrong shape is a fault
        if call is not None and (call.is_leaf or types[tensor][1] in (None, call.shape)):
            is_taken = tensor in modules and calls[modules[tensor]].is_leaf
            modules[tensor] = modules[tensor] if is_taken else end
    order = {name: index for index, name in enumerate(graph.tensors)}
    tensors = sorted(modules, key=order.__getitem__)
    return tuple(_pair(graph.producer[name], name, name, "module") for name in tensors), modules


@dataclass(frozen=True)
class _Call:
    shape: tuple[int, ...]
    source: str
    is_leaf: bool


def _recorded(module: nn.Module, feeds: Feeds) -> dict[str, _Call]:
    frozen = evaluation_copy(module)
    counts: dict[str, int] = {}
    outputs: dict[str, torch.Tensor] = {}
    makers: dict[int, str] = {}
    sources: dict[str, str] = {}

    def record(path: str, is_leaf: bool) -> Any:
        def hook(owner: nn.Module, inputs: Any, output: Any) -> None:
            del owner
            counts[path] = counts.get(path, 0) + 1
            if isinstance(output, torch.Tensor):
                outputs[path] = output  # kept alive, so that no other tensor gets its id
                given = [makers[id(one)] for one in inputs if isinstance(one, torch.Tensor) and id(one) in makers]
                sources[path] = given[0] if is_leaf and given else ""
                if is_leaf and id(output) not in makers:
                    makers[id(output)] = path

        return hook

    leaves = {path for path, child in frozen.named_modules() if not list(child.children())}
    for path, child in frozen.named_modules():
        child.register_forward_hook(record(path, path in leaves))
    with torch.no_grad():
        frozen(*(torch.from_numpy(array) for array in feeds.values()))
    return {
        path: _Call(tuple(output.shape), sources[path], path in leaves)
        for path, output in outputs.items()
        if path and counts[path] == 1
    }


def _pair(node: onnx.NodeProto, reference: str, candidate: str, by: str) -> Pair:
    return Pair(reference, candidate, node.name, node.op_type, by)


def _after_activation(graphs: tuple[TensorGraph, TensorGraph], reference: str, candidate: str) -> tuple[str, str]:
    kinds = [graph.producer[name].op_type for graph, name in zip(graphs, (reference, candidate), strict=True)]
    if kinds[0] == kinds[1] or not _CLIPPING.intersection(kinds):
        return reference, candidate
    if kinds[0] in _CLIPPING:
        return reference, _dequantised(graphs[1], candidate)
    return _dequantised(graphs[0], reference), candidate


def _dequantised(graph: TensorGraph, tensor: str) -> str:
    """Return what a graph goes on with where it quantises a tensor for every use of it, else the tensor."""
    readers = graph.readers(tensor)
    if not readers or any(node.op_type != "QuantizeLinear" for node in readers) or tensor in graph.outputs:
        return tensor
    after = [node for node in graph.readers(readers[0].output[0]) if node.op_type == "DequantizeLinear"]
    return str(after[0].output[0]) if after else tensor


def _place(graph: TensorGraph, tensor: str) -> tuple[str, str, int]:
    node = graph.producer[tensor]
    return node.name, node.op_type, list(node.output).index(tensor)


_Types = tuple[Mapping[str, tuple[int, tuple[int, ...] | None]], Mapping[str, tuple[int, tuple[int, ...] | None]]]


def _by_position(
    graphs: tuple[TensorGraph, TensorGraph],
    names: tuple[list[str], list[str]],
    found: Mapping[str, tuple[str, str]],
    *,
    types: _Types,
) -> list[tuple[str, str]]:
    twins = {other: name for name, (other, _) in found.items()}

    def key(side: int, name: str) -> object:
        known = twins.get(name) if side == 0 else (name if name in found else None)
        return known if known is not None else (graphs[side].producer[name].op_type, types[side][name][1])

    keys = [[key(side, name) for name in names[side]] for side in (0, 1)]
    blocks = SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_matching_blocks()
    aligned = [(names[0][block.a + step], names[1][block.b + step]) for block in blocks for step in range(block.size)]
    return [(other, name) for other, name in aligned if name not in found and other not in twins]
