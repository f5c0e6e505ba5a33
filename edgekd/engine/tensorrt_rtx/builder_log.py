"""Reads the fused layers out of TensorRT-RTX's verbose build log.

Without a GPU a plan of TensorRT-RTX cannot be loaded, so its inspector is out of reach; but with detailed profiling
verbosity the builder prints, in one message that starts with `Layers:`, every layer it generated with the types and
shapes of its tensors, and the totals of activation and weight memory in messages of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edgekd.core.errors import BuildError
from edgekd.engine.fusion import FusedLayer, FusedTensor, FusionReport

_DTYPES = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8", "UInt8": "uint8", "Int32": "int32"}
_MORE_DTYPES = {"Int64": "int64", "Bool": "bool", "FP8": "fp8", "E4M3": "fp8", "FP4": "fp4", "Int4": "int4"}
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), StreamId: -?\d+,(?: \w+: [^,]*,)* "
    r"Metadata: ?(?P<metadata>.*)"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[-\d,]*)\].*?, Datatype: (?P<dtype>[^,}]+), "
    r"Format: (?P<layout>.*?) ?\}"
)
_IO_TENSOR = re.compile(
    r" ?Name: (?P<name>.*?), IOMode: (?P<mode>\w+), DataType: (?P<dtype>\w+), Dimensions: \[(?P<shape>[-\d,]*)\]"
)
_PROFILE = re.compile(r"(Min|Opt|Max)Shape: \[([-\d,]*)\]")
_TOTALS = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\]")


def fusion_from_log(messages: Iterable[str]) -> FusionReport:
    """Collect the fused layers and memory totals.

    Args:
        messages: Texts of the builder's log, in order.

    Returns:
        The report; totals are None when the log has none.

    Raises:
        BuildError: The log has no layer list, or a line of it is not understood. Nothing is guessed.
    """
    totals: dict[str, int] = {}
    layers: tuple[FusedLayer, ...] | None = None
    for message in messages:
        if message.startswith("Layers:"):
            layers = tuple(_layer(line) for line in message.splitlines() if line.startswith("Name: "))
        elif total := _TOTALS.search(message):
            totals[total[1]] = int(total[2])
    if not layers:
        raise BuildError(
            "the builder's log has no list of layers, so the precision of the engine cannot be confirmed; it needs "
            "verbose logging and detailed profiling verbosity, and a TensorRT-RTX whose log edgekd knows (1.7)"
        )
    return FusionReport(layers, totals.get("Activation"), totals.get("Weights"))


def io_tensors_from_log(messages: Iterable[str]) -> list[dict[str, Any]]:
    """Collect the engine's inputs and outputs with their batch profiles, as plain data."""
    text = next((message for message in messages if message.startswith("Layers:")), "")
    return [
        {
            "name": found["name"],
            "mode": found["mode"].lower(),
            "dtype": _dtype(found["dtype"]),
            "shape": list(_shape(found["shape"])),
            **{f"{end.lower()}_shape": list(_shape(sizes)) for end, sizes in _PROFILE.findall(line)},
        }
        for line in text.splitlines()
        if (found := _IO_TENSOR.match(line))
    ]


def _layer(line: str) -> FusedLayer:
    found = _LAYER.fullmatch(line.rstrip())
    if found is None:
        raise BuildError(f"a layer of the builder's log is not understood: {line[:200]}")
    return FusedLayer(
        found["name"],
        found["kind"],
        inputs=_tensors(found["inputs"], line),
        constants=_tensors(found["constants"], line),
        outputs=_tensors(found["outputs"], line),
        onnx_nodes=tuple(dict.fromkeys(_NODE.findall(found["metadata"]))),
    )


def _tensors(text: str, line: str) -> tuple[FusedTensor, ...]:
    tensors = tuple(
        FusedTensor(item["name"], _shape(item["shape"]), _dtype(item["dtype"]), item["layout"])
        for item in _TENSOR.finditer(text)
    )
    if len(tensors) != text.count("{ Name: "):
        raise BuildError(f"a tensor of the builder's log is not understood: {line[:200]}")
    return tensors


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _dtype(text: str) -> str:
    word = text.strip()
    return _DTYPES.get(word) or _MORE_DTYPES.get(word) or word.lower()
