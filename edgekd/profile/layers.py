"""Layer times by the user's own names: from what a runtime calls its layers back to ONNX nodes and to modules.

ONNX nodes that edgekd exports are named `module.path/Op`; the older exporter of PyTorch writes `/a/a.0/conv/Conv`. A
runtime fuses nodes and names the result as it likes. A layer that several modules share is listed with all of them: its
time is not divided by guess.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from edgekd.export import module_of
from edgekd.profile.trtexec import LayerInfo, LayerProfile

_REFORMAT = re.compile(r"^Reformatting CopyNode for .* to (.+)$")
_WRAPPERS = re.compile(r"PWN\(|\{ForeignNode\[|\]\}|\)")
_BETWEEN = re.compile(r" \+ | \|\| |, |\.\.\.")


@dataclass(frozen=True)
class MeasuredLayer:
    """One layer as it ran.

    Attributes:
        name: What the runtime calls it.
        time_ms: Its median time; the mean where the runtime does not tell the median.
        share: Of the time of all layers, 0..1.
        kind: Its operator or type; empty where the runtime does not tell.
        nodes: ONNX nodes it was made from; empty where they are not known.
        modules: Modules that these nodes belong to.
    """

    name: str
    time_ms: float
    share: float
    kind: str
    nodes: tuple[str, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True)
class ModuleTime:
    """Layers of the same modules taken together.

    Attributes:
        module: Path of the module, or of all that share the layers, joined by ` + `; empty where it is not known.
        time_ms: Their times together.
        share: Of the time of all layers, 0..1.
        layers: How many layers.
    """

    module: str
    time_ms: float
    share: float
    layers: int


def measured_layer(name: str, time_ms: float, total_ms: float, kind: str, nodes: Sequence[str]) -> MeasuredLayer:
    """Make a layer; its modules are those of its nodes, each once."""
    modules = tuple(dict.fromkeys(module for node in nodes if (module := module_of(node))))
    return MeasuredLayer(name, time_ms, time_ms / total_ms if total_ms else 0.0, kind, tuple(nodes), modules)


def by_module(layers: Sequence[MeasuredLayer]) -> tuple[ModuleTime, ...]:
    """Add up the layers of the same modules, the slowest first."""
    times: dict[str, list[MeasuredLayer]] = {}
    for layer in layers:
        times.setdefault(" + ".join(layer.modules), []).append(layer)
    found = [
        ModuleTime(module, sum(one.time_ms for one in own), sum(one.share for one in own), len(own))
        for module, own in times.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.time_ms))


def nodes_in_name(layer: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """Find the ONNX nodes in the name that TensorRT gave to a fused layer.

    Args:
        layer: `a/Conv + b/Relu`, `PWN(a/Relu)`, `{ForeignNode[a/MatMul...b/Add]}` (its ends only), a copy before a
            layer (`Reformatting CopyNode for Input Tensor 0 to a/Conv`), two at once (`a/Conv || b/Conv`).
        known: Names of the model's nodes; others are left out. By default whatever has a module path.

    Returns:
        The nodes, each once.
    """
    copied = _REFORMAT.match(layer)
    parts = (part.strip() for part in _BETWEEN.split(_WRAPPERS.sub("", copied[1] if copied else layer)))
    return tuple(dict.fromkeys(part for part in parts if (part in known if known else "/" in part)))


def layers_from_trtexec(
    profile: LayerProfile, info: LayerInfo | None = None, known: Collection[str] = ()
) -> tuple[MeasuredLayer, ...]:
    """Join layer times with layer information.

    Args:
        profile: What `--exportProfile` wrote.
        info: What `--exportLayerInfo` wrote of the same engine; its metadata tells nodes better than names do.
        known: Names of the ONNX model's nodes, where it is at hand.

    Returns:
        The layers in order of execution.
    """
    details = {layer.name: layer for layer in info.layers} if info is not None else {}
    times = [layer.average_ms if layer.median_ms is None else layer.median_ms for layer in profile.layers]
    found = []
    for layer, time_ms in zip(profile.layers, times, strict=True):
        detail = details.get(layer.name)
        told = tuple(node for node in detail.onnx_nodes if not known or node in known) if detail else ()
        nodes = told or nodes_in_name(layer.name, known)
        found.append(measured_layer(layer.name, time_ms, sum(times), detail.kind if detail else "", nodes))
    return tuple(found)
