"""Reads the layers of a built TensorRT plan from its inspector's JSON, of 8.x, 10.x and 11.x alike.

Up to 10.x a tensor has one field `Format/Datatype` ("Channel major FP16 format where channel % 8 == 0"); 11.x splits it
into `Format` and `Datatype`. Without detailed verbosity layers are plain strings, which prove nothing and are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgekd.core.errors import BuildError
from edgekd.engine.fusion import FusedLayer, FusedTensor, FusionReport

_DTYPE = re.compile(r"\b(FP32|Float|FP16|Half|BF16|BFloat16|FP8|E4M3|INT8|INT4|INT32|INT64|Bool)\b", re.IGNORECASE)
_NAMES = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "e4m3": "fp8"}
_NODE = re.compile(r"\[ONNX Layer: (.*)\]", re.DOTALL)
_BETWEEN_NODES = re.compile(r"[\x1e\x1f]|(?<=\])\s*(?=\[ONNX Layer: )")


def fusion_from_inspector(text: str) -> FusionReport:
    """Read the JSON of `EngineInspector.get_engine_information`.

    Args:
        text: The JSON document.

    Returns:
        The report; the inspector does not tell memory totals, so they are None.

    Raises:
        BuildError: Not that JSON, no layers, or layers without details.
    """
    try:
        document: Any = json.loads(text, strict=False)  # metadata may hold bare control characters
    except ValueError as error:
        raise BuildError(f"the engine inspector gave no JSON: {error}") from error
    layers = document.get("Layers") if isinstance(document, dict) else None
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise BuildError(
            "the engine inspector gave no layer details, so the precision of the engine cannot be confirmed; build "
            "with detailed profiling verbosity"
        )
    return FusionReport(tuple(_layer(layer) for layer in layers))


def _layer(layer: Mapping[str, Any]) -> FusedLayer:
    kind = str(layer.get("ParameterType") or layer.get("LayerType", "unknown"))
    return FusedLayer(
        str(layer.get("Name", "")),
        kind,
        tuple(_tensor(item) for item in layer.get("Inputs", [])),
        tuple(_tensor(item) for item in layer.get("Constants", [])),
        tuple(_tensor(item) for item in layer.get("Outputs", [])),
        nodes_of_metadata(str(layer.get("Metadata", ""))),
    )


def nodes_of_metadata(metadata: str) -> tuple[str, ...]:
    """Return the ONNX nodes that a layer's `Metadata` names, in order, each once.

    Nodes are written `[ONNX Layer: name]`, one after the other or apart by the control characters 0x1e and 0x1f.
    """
    found = (_NODE.fullmatch(part.strip()) for part in _BETWEEN_NODES.split(metadata))
    return tuple(dict.fromkeys(match[1] for match in found if match))


def _tensor(tensor: Mapping[str, Any]) -> FusedTensor:
    layout = str(tensor.get("Format/Datatype") or tensor.get("Format", ""))
    found = _DTYPE.search(str(tensor.get("Datatype") or layout))
    if found is None:
        raise BuildError(f"the engine inspector gave no known type for tensor {tensor.get('Name')!r}: {layout!r}")
    word = found[1].lower()
    shape = tuple(int(size) for size in tensor.get("Dimensions", []))
    return FusedTensor(str(tensor.get("Name", "")), shape, _NAMES.get(word, word), layout)
