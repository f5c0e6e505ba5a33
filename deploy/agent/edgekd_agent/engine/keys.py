"""Names of engines: everything that decides whether a built engine may be loaded, as one digest."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from edgekd_agent import strict
from edgekd_agent.bundle import Manifest
from edgekd_agent.errors import AgentError

Backend = Literal["tensorrt", "onnxruntime"]
_OF_TENSORRT = ("machine", "model", "l4t", "gpu", "sm", "cuda_driver", "tensorrt")
_OF_ONNXRUNTIME = ("machine", "onnxruntime")


def backend_for(manifest: Manifest, facts: Mapping[str, Any]) -> Backend:
    """Choose what runs a bundle here: what the plan says, or ONNX Runtime where there is no TensorRT.

    Raises:
        AgentError: Nothing on this device can run it.
    """
    if manifest.build.backend == "tensorrt" and facts.get("tensorrt") and facts.get("gpu"):
        return "tensorrt"
    if facts.get("onnxruntime"):
        return "onnxruntime"
    wanted = f"{manifest.build.backend} was planned"
    raise AgentError("precondition", f"neither TensorRT with a GPU nor ONNX Runtime is on this device; {wanted}")


def engine_key(manifest: Manifest, facts: Mapping[str, Any]) -> str:
    """Return the key of the engine that a device with these facts needs for a bundle."""
    model = next(item for item in manifest.artifacts if item.path == manifest.build.model)
    return _digest({**_base(manifest, facts), "onnx": model.sha256})


def timing_key(manifest: Manifest, facts: Mapping[str, Any]) -> str:
    """Return the key of the timing cache: as the engine's, whatever the model."""
    return _digest(_base(manifest, facts))


def _base(manifest: Manifest, facts: Mapping[str, Any]) -> dict[str, Any]:
    backend = backend_for(manifest, facts)
    names = _OF_TENSORRT if backend == "tensorrt" else _OF_ONNXRUNTIME
    plan = dataclasses.asdict(manifest.build)
    for name in ("model", "backend"):
        del plan[name]
    return {"backend": backend, "device": {name: facts.get(name) for name in names}, "plan": plan}


def _digest(document: Any) -> str:
    return hashlib.sha256(strict.canonical(document)).hexdigest()
