"""Layer times on ONNX Runtime, by a run of its profiler, apart from the run that measures latency.

The runtime fuses nodes and renames them, often after the tensor they make. So its optimised graph is kept, each of its
nodes is found again by the tensors that both graphs have, and all original nodes between them are taken together.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekd.core.errors import BuildError, DataError, missing_package
from edgekd.export.ort_run import session_options
from edgekd.profile.layers import MeasuredLayer, measured_layer

if TYPE_CHECKING:
    import onnx

_EVENT_SUFFIX = "_kernel_time"
_LAYOUT_SUFFIX = "_nchwc"
_REORDERINGS = ("ReorderInput", "ReorderOutput")
_WARMUP = 5
_FUSED_AFTER = ("Add", "Sum", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid")


def ort_layers(
    path: Path, feeds: Mapping[str, NDArray[Any]], *, runs: int = 50, threads: int = 1
) -> tuple[MeasuredLayer, ...]:
    """Time every layer of a model on ONNX Runtime's CPU provider.

    Args:
        path: An ONNX file.
        feeds: Its inputs by name.
        runs: Runs to take the median of, after five that are not counted.
        threads: CPU threads.

    Returns:
        The layers in order of execution; times are medians of whole microseconds, and their sum leaves out what happens
        between layers.

    Raises:
        BuildError: ONNX Runtime cannot run the model.
        PreconditionError: `onnxruntime` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "timing the layers of ONNX models") from error
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgekd-layers-") as scratch:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        options.optimized_model_filepath = str(Path(scratch) / "optimised.onnx")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for _ in range(_WARMUP + runs):
                session.run(None, dict(feeds))
            text = Path(session.end_profiling()).read_text(encoding="utf-8")
        except Exception as error:  # onnxruntime's exceptions share no narrower base class
            raise BuildError(f"ONNX Runtime cannot time the layers: {str(error).splitlines()[0]}") from error
        optimised = onnx.load(options.optimized_model_filepath).graph
    origins = origins_of(onnx.load(str(path), load_external_data=False).graph, optimised)
    return layers_from_ort_profile(text, origins, warmup=_WARMUP)


def layers_from_ort_profile(
    text: str, origins: Mapping[str, Sequence[str]], *, warmup: int
) -> tuple[MeasuredLayer, ...]:
    """Read the file that ONNX Runtime's profiler wrote.

    Args:
        text: Its content, a list of trace events.
        origins: Original nodes of each node of the optimised graph; of others the name itself is taken.
        warmup: Runs not to count.

    Raises:
        DataError: It is not such a file, or has no more runs than are not to be counted.
    """
    try:
        events = json.loads(text)
        nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_EVENT_SUFFIX)]
        spans = [(event["name"].removesuffix(_EVENT_SUFFIX), event["dur"] / 1e3, event["args"]) for event in nodes]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"not a profile of ONNX Runtime: {type(error).__name__} {error}") from error
    times: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for name, time_ms, facts in spans:
        times.setdefault(name, []).append(time_ms)
        kinds[name] = str(facts.get("op_name", ""))
    medians = {name: statistics.median(own[warmup:]) for name, own in times.items() if len(own) > warmup}
    if not medians:
        raise DataError(f"the profile of ONNX Runtime has no node that ran more than {warmup} times")
    total_ms = sum(medians.values())
    return tuple(
        measured_layer(name, time_ms, total_ms, kinds[name], origins.get(name, (name,)))
        for name, time_ms in medians.items()
    )


def origins_of(original: onnx.GraphProto, optimised: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    """Find the original nodes behind every node of an optimised graph.

    Args:
        original: The graph as it was loaded.
        optimised: The graph as the runtime saved it.

    Returns:
        Names of original nodes by name of the optimised node; a copy or a reordering of a tensor belongs to what made
        it, and a node of which nothing is known is left out.
    """
    producer = {name: node for node in original.node for name in node.output if name}
    consumers = _consumers(original)
    by_name = {node.name: node for node in original.node if node.name}
    made = [_original_tensors(node, producer, by_name) for node in optimised.node]
    visible = {name for names in made for name in names}
    for index in reversed(range(len(made))):  # of two convolutions that are added, the later one computes the sum
        made[index] = tuple(_fused_end(tensor, consumers, visible) for tensor in made[index])
        visible.update(made[index])
    boundaries = {name for names in made for name in names}
    order = {id(node): index for index, node in enumerate(original.node)}
    found = {}
    for node, names in zip(optimised.node, made, strict=True):
        if names:
            own = sorted(_between(names, boundaries, producer), key=lambda one: order[id(one)])
            found[node.name] = tuple(one.name or one.output[0] for one in own if one.op_type != "Constant")
    sources = {name: node.name for node in optimised.node for name in node.output}
    for node in optimised.node:  # reorderings make tensors that the original graph lacks
        source = next((sources[name] for name in node.input if name in sources), "")
        if node.op_type in _REORDERINGS and source in found:
            found[node.name] = found[source]
    return found


def _consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _fused_end(tensor: str, consumers: Mapping[str, Sequence[onnx.NodeProto]], visible: set[str]) -> str:
    """Follow a tensor through the elementwise nodes that were fused into what makes it: a residual add, a relu."""
    following = consumers.get(tensor, ())
    while len(following) == 1 and following[0].op_type in _FUSED_AFTER and following[0].output[0] not in visible:
        tensor = following[0].output[0]
        following = consumers.get(tensor, ())
    return tensor


def _original_tensors(
    node: onnx.NodeProto, producer: Mapping[str, onnx.NodeProto], by_name: Mapping[str, onnx.NodeProto]
) -> tuple[str, ...]:
    if node.op_type in _REORDERINGS:
        return ()
    named = [name for name in node.output if name in producer]
    laid_out = node.name.removesuffix(_LAYOUT_SUFFIX)
    if not named and node.name.endswith(_LAYOUT_SUFFIX) and laid_out in producer:
        named = [laid_out]
    if not named and node.name in by_name and by_name[node.name].op_type == node.op_type:
        named = [name for name in by_name[node.name].output if name]
    return tuple(named)


def _between(
    names: Iterable[str], boundaries: set[str], producer: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """Return the nodes that make tensors from boundaries, each once, in no order."""
    pending, seen = list(names), dict[int, Any]()
    while pending:
        node = producer.get(pending.pop())
        if node is not None and id(node) not in seen:
            seen[id(node)] = node
            pending += [name for name in node.input if name not in boundaries]
    return list(seen.values())
