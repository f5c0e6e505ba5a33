"""Turn ONNX operations into the kernels TensorRT would launch, by the rules of `data/fusion_rules.yaml`.

Operations are visited in topological order. One that does work of its own becomes a kernel and takes in what follows:
element-wise operations whose results nobody else needs, one residual operand that is ready by then, affine operations
that fold into weights. Views (reshape, split, Q/DQ) move nothing. What is left over element-wise forms chains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekd.core.config import read_yaml
from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import ConfigError, DataError
from edgekd.latency.attention import with_attention_fused
from edgekd.latency.kernel_shapes import layer_of
from edgekd.latency.layers import Layer, LayerGraph, with_gates
from edgekd.latency.onnx_ops import Op, OpGraph, read_ops, require_sizes

_LONGEST_ACTIVATION = 12


@dataclass
class Kernel:
    """A kernel being put together.

    Attributes:
        role: Its rule role, or `"input"`.
        anchor: The operation it started from; `None` for the network's input.
        reads: Activation tensors it reads, each once.
        output: The tensor it writes.
        pointwise: Element-wise operations taken in, an activation made of several nodes counting once.
        residuals: Operands of other layers taken in.
    """

    role: str
    anchor: Op | None
    reads: list[str]
    output: str
    pointwise: int = 0
    residuals: int = 0


@dataclass(frozen=True)
class Wiring:
    """Who reads what, with views looked through.

    Attributes:
        source: The tensor in memory that a tensor is a view of.
        readers: Positions of the operations that read each source, views excepted.
        pinned: Sources that leave the network, or of which only a part is read.
        made_at: Position of the operation that makes each source; -1 for inputs of the network.
    """

    source: Mapping[str, str]
    readers: Mapping[str, frozenset[int]]
    pinned: frozenset[str]
    made_at: Mapping[str, int]


@dataclass
class _Fusion:
    graph: OpGraph
    roles: tuple[str, ...]
    wiring: Wiring
    rule: Mapping[str, Any]
    taken: set[int] = field(default_factory=set)
    written: set[str] = field(default_factory=set)


def graph_from_onnx(
    path: Path, batch: int = 1, *, dims: Mapping[str, int] | None = None, tensorrt: str | None = None
) -> LayerGraph:
    """Read the fused kernels of an ONNX model.

    Args:
        path: ONNX file, one or more inputs `[B, ...]` with every dimension but the batch fixed.
        batch: Batch size to analyse where the file leaves it open.
        dims: Values of other open dimensions, by name or by input and axis (`{"height": 224, "x:3": 224}`).
        tensorrt: TensorRT line whose fusions are meant (`"10.3"`); the one that the parameters are fitted with where
            left out.

    Returns:
        Kernels in launch order.

    Raises:
        ConfigError: Impossible batch size, no such open dimension, or a line older than the rules.
        DataError: The model cannot be analysed: unreadable, dynamic, operators unknown to the rules (all named).
    """
    ops = read_ops(path, batch, dims)
    _known_roles(ops, path, _rule_for(tensorrt))
    require_sizes(ops, path)
    return graph_from_ops(ops, batch=batch, tensorrt=tensorrt, parents=(sha256_of_file(path),))


def graph_from_ops(
    ops: OpGraph, *, batch: int = 1, tensorrt: str | None = None, parents: tuple[str, ...] = ()
) -> LayerGraph:
    """Group the operations of a network into kernels.

    Args:
        ops: The network, every size known.
        batch: Batch size where the input does not say.
        tensorrt: TensorRT line, as for `graph_from_onnx`.
        parents: Digests of what it was read from.

    Returns:
        Kernels in launch order.

    Raises:
        ConfigError: The line is older than the rules.
        DataError: Operators unknown to the rules, all named.
    """
    rule = _rule_for(tensorrt)
    roles = _known_roles(ops, ops.name, rule)
    roles = tuple(_role_in_place(op, role, ops, rule) for op, role in zip(ops.ops, roles, strict=True))
    kernels = fused_kernels(ops, roles, rule)
    shape = ops.shapes[ops.inputs[0]] if ops.inputs else ()
    layers = [_layer(kernel, ops) for kernel in kernels]
    if rule["widest_fused_head"]:
        wiring, widest = _wiring(ops, roles), rule["widest_fused_head"]
        layers = with_attention_fused(kernels, layers, source=wiring.source, pinned=wiring.pinned, widest_head=widest)
    batch = shape[0] if shape else batch
    return LayerGraph(
        name=ops.name,
        batch=batch,
        layers=with_gates(layers, batch),
        resolution=shape[2] if len(shape) == 4 else 0,
        parents=parents,
    )


def fused_kernels(graph: OpGraph, roles: tuple[str, ...], rule: Mapping[str, Any]) -> list[Kernel]:
    """Group operations into kernels.

    Args:
        graph: The network.
        roles: Role of each operation of `graph.ops`.
        rule: One entry of the rule file.

    Returns:
        Kernels in launch order.
    """
    state = _Fusion(graph, roles, _wiring(graph, roles), rule)
    kernels = [_extended(state, Kernel("input", None, [name], name)) for name in graph.inputs]
    for position, op in enumerate(graph.ops):
        if position in state.taken or roles[position] == "view":
            continue
        state.taken.add(position)
        reads = list({_memory(state, name): name for name in graph.activations(op)}.values())
        kernels.append(_extended(state, Kernel(roles[position], op, reads, op.outputs[0])))
    return _launch_order(kernels, state.wiring)


def _layer(kernel: Kernel, ops: OpGraph) -> Layer:
    fused = (kernel.pointwise, kernel.residuals)
    return layer_of(kernel.role, kernel.anchor, ops, reads=kernel.reads, output=kernel.output, fused=fused)


def _launch_order(kernels: list[Kernel], wiring: Wiring) -> list[Kernel]:
    """Put kernels after those whose results they read, otherwise in the order of their anchors."""
    writer = {kernel.output: kernel for kernel in kernels}
    ordered: dict[str, Kernel] = {}

    def launch(kernel: Kernel) -> None:
        for name in kernel.reads:
            source = wiring.source[name]
            if source in writer and source not in ordered and source != kernel.output:
                launch(writer[source])
        ordered.setdefault(kernel.output, kernel)

    for kernel in kernels:
        launch(kernel)
    return list(ordered.values())


def _extended(state: _Fusion, kernel: Kernel) -> Kernel:
    if kernel.role in state.rule["absorbs_pointwise"]:
        is_growing = True
        while is_growing:
            is_growing = _take_activation(state, kernel) or _take_residual(state, kernel)
    elif kernel.role == "copy" and state.rule["merges_copies"]:
        while _take_copy(state, kernel):
            pass
    state.written.add(kernel.output)
    return kernel


def _take_activation(state: _Fusion, kernel: Kernel) -> bool:
    chain = _closed_chain(state, kernel.output)
    if not chain:
        return False
    types = {state.graph.ops[position].type for position in chain}
    is_unactivated = kernel.pointwise == 0 and kernel.residuals == 0
    is_folded = is_unactivated and kernel.role in state.rule["folds_affine"] and types <= set(state.rule["affine"])
    is_free = types <= set(state.rule["free_pointwise"])
    _take(state, kernel, chain, count=0 if is_folded or is_free else 1)
    return True


def _take_residual(state: _Fusion, kernel: Kernel) -> bool:
    if kernel.residuals >= state.rule["residuals"][kernel.role]:
        return False
    readers = state.wiring.readers.get(kernel.output, frozenset())
    if len(readers) != 1 or kernel.output in state.wiring.pinned:
        return False
    position = next(iter(readers))
    if not _is_elementwise(state, position, kernel.output):
        return False
    op = state.graph.ops[position]
    others = [name for name in state.graph.activations(op) if state.wiring.source[name] != kernel.output]
    if not all(_is_ready(state, name) for name in others):
        return False
    is_read_again = kernel.role in state.rule["folds_affine"]
    known = set() if is_read_again else {_memory(state, name) for name in kernel.reads}
    new = list({_memory(state, name): name for name in others if _memory(state, name) not in known}.values())
    kernel.reads.extend(new)
    kernel.residuals += bool(new)
    _take(state, kernel, [position], count=1)
    return True


def _take_copy(state: _Fusion, kernel: Kernel) -> bool:
    readers = state.wiring.readers.get(kernel.output, frozenset())
    if len(readers) != 1 or kernel.output in state.wiring.pinned:
        return False
    position = next(iter(readers))
    if state.roles[position] != "copy" or len(state.graph.activations(state.graph.ops[position])) != 1:
        return False
    _take(state, kernel, [position], count=0)
    return True


def _take(state: _Fusion, kernel: Kernel, chain: list[int], *, count: int) -> None:
    state.taken.update(chain)
    kernel.output = state.graph.ops[chain[-1]].outputs[0]
    kernel.pointwise += count


def _closed_chain(state: _Fusion, tensor: str) -> list[int]:
    """Return the fewest element-wise operations after which only one new tensor of what hangs on `tensor` is needed."""
    produced, chain = {tensor}, list[int]()
    while len(chain) < _LONGEST_ACTIVATION:
        position = _next_inside(state, produced, chain, tensor)
        if position is None:
            return []
        chain.append(position)
        produced.add(state.graph.ops[position].outputs[0])
        needed = {name for name in produced if _is_needed_outside(state, name, chain)}
        if needed == {state.graph.ops[position].outputs[0]}:
            return chain
    return []


def _next_inside(state: _Fusion, produced: set[str], chain: list[int], tensor: str) -> int | None:
    candidates = {reader for name in produced for reader in state.wiring.readers.get(name, ())} - set(chain)
    for position in sorted(candidates):
        sources = {state.wiring.source[name] for name in state.graph.activations(state.graph.ops[position])}
        if sources <= produced and _is_elementwise(state, position, tensor):
            return position
    return None


def _is_needed_outside(state: _Fusion, tensor: str, chain: list[int]) -> bool:
    return tensor in state.wiring.pinned or bool(state.wiring.readers.get(tensor, frozenset()) - set(chain))


def _is_elementwise(state: _Fusion, position: int, tensor: str) -> bool:
    op = state.graph.ops[position]
    keeps_size = state.graph.elems(op.outputs[0]) == state.graph.elems(tensor)
    return state.roles[position] in ("pointwise", "scale") and keeps_size and position not in state.taken


def _is_ready(state: _Fusion, tensor: str) -> bool:
    """Say whether an operand can exist before the kernel that asks for it runs.

    It never depends on that kernel, whose output has one reader. One whose own kernel could take the addition in, and
    comes later, is left to it; a copy or a pooling beside the kernel is launched first.
    """
    source = state.wiring.source[tensor]
    while source not in state.written and state.roles[state.wiring.made_at[source]] == "scale":
        # Folded into what made its input, so it comes when that comes.
        source = state.wiring.source[state.graph.activations(state.graph.ops[state.wiring.made_at[source]])[0]]
    return source in state.written or state.roles[state.wiring.made_at[source]] not in state.rule["folds_affine"]


def _memory(state: _Fusion, tensor: str) -> str:
    """Name what is read: views of a whole tensor are that tensor, parts of one are themselves."""
    source = state.wiring.source[tensor]
    return source if state.graph.elems(source) == state.graph.elems(tensor) else tensor


def _wiring(graph: OpGraph, roles: tuple[str, ...]) -> Wiring:
    source = {name: name for name in graph.inputs}
    made_at = dict.fromkeys(graph.inputs, -1)
    readers: dict[str, set[int]] = {}
    pinned: set[str] = set()
    for position, op in enumerate(graph.ops):
        activations = graph.activations(op)
        for output in op.outputs:
            source[output], made_at[output] = output, position
        if roles[position] != "view":
            for name in activations:
                readers.setdefault(source[name], set()).add(position)
                if graph.elems(name) != graph.elems(source[name]):
                    pinned.add(source[name])
        elif activations:
            source.update(dict.fromkeys(op.outputs, source[activations[0]]))
    pinned.update(source[name] for name in graph.outputs if name in source)
    return Wiring(source, {name: frozenset(found) for name, found in readers.items()}, frozenset(pinned), made_at)


def _rule_for(tensorrt: str | None) -> Mapping[str, Any]:
    """Return the rules of the newest line that is not newer than the one asked for."""
    document = _rules()
    wanted = _line(tensorrt or document["fitted_with"])
    rules = [rule for rule in document["rules"] if _line(rule["tensorrt_from"]) <= wanted]
    if not rules:
        raise ConfigError(f"TensorRT {tensorrt}: fusions are known from {document['rules'][0]['tensorrt_from']} on")
    return dict(rules[-1])


def _line(version: str) -> tuple[int, int]:
    match = re.match(r"(\d+)(?:\.(\d+))?", version)
    if match is None:
        raise ConfigError(f"TensorRT line {version!r} is no version; write it as 10.3")
    return int(match[1]), int(match[2] or 0)


def _known_roles(graph: OpGraph, source: Path | str, rule: Mapping[str, Any]) -> tuple[str, ...]:
    refused = _rules()["refused"]
    role_of = {op_type: role for role, types in rule["roles"].items() for op_type in types}
    unknown = Counter(op.type for op in graph.ops if op.type not in role_of)
    if unknown:
        reasons = (
            f"{name} ({count}): {refused.get(name, 'not in the fusion rules')}" for name, count in unknown.items()
        )
        raise DataError(f"{source}: operators whose cost cannot be predicted: {'; '.join(reasons)}")
    return tuple(role_of[op.type] for op in graph.ops)


def _role_in_place(op: Op, role: str, graph: OpGraph, rule: Mapping[str, Any]) -> str:
    if op.type == "Slice" and _is_strided(op, graph):
        return "copy"
    if op.type == "Pad" and _only_read_by(op.outputs[0], graph, rule["pad_merges_into"]):
        return "view"
    if op.type == "AveragePool" and all(size == 1 for size in graph.shapes[op.outputs[0]][2:]):
        return "reduce"
    return role


def _is_strided(op: Op, graph: OpGraph) -> bool:
    if len(op.inputs) < 5:
        return False
    return set(graph.values.get(op.inputs[4], (0,))) != {1}


def _only_read_by(tensor: str, graph: OpGraph, types: Iterable[str]) -> bool:
    readers = [op.type for op in graph.ops if tensor in op.inputs]
    return bool(readers) and tensor not in graph.outputs and set(readers) <= set(types)


@lru_cache(maxsize=1)
def _rules() -> dict[str, Any]:
    return read_yaml(Path(str(files("edgekd.latency") / "data" / "fusion_rules.yaml")))
