"""A built engine, opened and run; what runs it is chosen by what built it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgekd_agent import documents
from edgekd_agent.errors import AgentError
from edgekd_agent.reader import digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUILD = "build.json"
PLAN = "model.plan"
RefusalKind = Literal["build", "health", "budget", "memory"]


class Refused(Exception):
    """An engine, or the model it should be made of, is not accepted."""

    def __init__(self, kind: RefusalKind, message: str) -> None:
        super().__init__(message)
        self.kind: RefusalKind = kind


class Engine(Protocol):
    """An engine that is loaded. One thread runs it at a time."""

    @property
    def input_name(self) -> str:
        """Name of its input."""

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Type of its input."""

    def run(self, inputs: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs for one batch, first output first; raises `Refused`."""

    def device_memory_bytes(self) -> int:
        """Return what it holds beyond the memory of this process."""


def open_engine(build: Path, model: Path) -> Engine:
    """Load an engine that this device built, or that was signed for exactly this device.

    Args:
        build: Folder of the build.
        model: The ONNX model it was made of.

    Returns:
        The engine.

    Raises:
        AgentError: The build is not whole.
        Refused: It cannot be loaded.
    """
    about = require_build(build)
    if about["backend"] == "tensorrt":
        from edgekd_agent.engine import tensorrt_engine

        return tensorrt_engine.load(build / PLAN)
    from edgekd_agent.engine import onnxruntime_engine

    return onnxruntime_engine.load(model, about.get("options", {}))


def require_build(build: Path) -> Mapping[str, Any]:
    """Return `build.json` of a whole build: the plan has the digest that was written down when it was made.

    Raises:
        AgentError: It is not whole.
    """
    about = documents.read(build / BUILD)
    if about is None or about.get("schema_version") != 1 or about.get("key") != build.resolve().name:
        raise AgentError("damaged", f"{build}: no finished build")
    plan = about.get("plan")
    if plan is not None:
        path = (build / PLAN).resolve()
        if not path.is_file() or digest_of(path, plan["size_bytes"]) != plan["sha256"]:
            raise AgentError("damaged", f"{build / PLAN} is not the plan that was built")
    return about


def run_all(engine: Engine, inputs: NDArray[Any], batch: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Run any number of inputs in batches that an engine takes.

    Args:
        engine: The engine.
        inputs: Inputs `[N, ...]`.
        batch: Smallest and largest batch.

    Returns:
        Its outputs `[N, ...]`, first output first.
    """
    import numpy as np

    smallest, largest = batch
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, len(inputs), largest):
        part = inputs[start : start + largest]
        padding = max(0, smallest - len(part))
        whole = np.concatenate([part, np.repeat(part[-1:], padding, axis=0)]) if padding else part
        parts.append({name: value[: len(part)] for name, value in engine.run(whole).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
