"""The one protocol between edgekd and whatever runs a network: build an engine, open it, run it.

A backend that cannot do what was asked says so with an error; none falls back to another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekd.core.artifacts import Engine, OnnxModel
from edgekd.core.errors import ConfigError
from edgekd.core.events import Listener, silent
from edgekd.data import NetInputs
from edgekd.engine.portability import TIED, Portability

if TYPE_CHECKING:
    from edgekd.targets import Target


_MOST_OPTIMIZATION = 5


def level_problems(level: int | None) -> list[str]:
    """Return what is wrong with an optimisation level of TensorRT; nothing where it is one, or None."""
    if level is None or 0 <= level <= _MOST_OPTIMIZATION:
        return []
    return [f"optimization_level is {level}, it goes from 0 to {_MOST_OPTIMIZATION}"]


@dataclass(frozen=True)
class BuildOptions:
    """What to build for.

    Attributes:
        target: Device the engine is for.
        batch: Batch size the engine is optimised for; must equal the model's when that is fixed.
        max_batch: Largest batch of an engine made from a model with dynamic batch; 0 means `batch`.
        threads: CPU threads inside one operator (`onnxruntime` only).
        provider: Execution provider that must really run the model (`onnxruntime` only).
        timeout_s: Seconds after which a build is stopped (`tensorrt` and `tensorrt_rtx`).
        workspace_mb: Upper limit of scratch memory in MiB; 0 leaves the builder's own limit.
        timing_cache: File of kernel timings to read and extend (`tensorrt` only).
        optimization_level: How long the builder looks for fast kernels, 0 to 5; None leaves its own (TensorRT both).
        portability: Which other TensorRTs and GPUs the plan may run on (`tensorrt` only).
        listener: Told about progress.
    """

    target: Target
    batch: int = 1
    max_batch: int = 0
    threads: int = 1
    provider: str = "CPUExecutionProvider"
    timeout_s: float = 900.0
    workspace_mb: int = 0
    timing_cache: Path | None = None
    optimization_level: int | None = None
    portability: Portability = TIED
    listener: Listener = silent

    def __post_init__(self) -> None:
        problems = []
        if self.batch < 1:
            problems.append(f"batch is {self.batch}, it must be at least 1")
        if self.max_batch and self.max_batch < self.batch:
            problems.append(f"max_batch is {self.max_batch}, less than batch {self.batch}")
        if self.threads < 1:
            problems.append(f"threads is {self.threads}, it must be at least 1")
        if not self.timeout_s > 0:
            problems.append(f"timeout_s is {self.timeout_s}, it must be positive")
        if self.workspace_mb < 0:
            problems.append(f"workspace_mb is {self.workspace_mb}, it must not be negative")
        problems += level_problems(self.optimization_level)
        if problems:
            raise ConfigError("build options: " + "; ".join(problems))

    @property
    def largest_batch(self) -> int:
        """Largest batch the engine must take."""
        return self.max_batch or self.batch


class Runner(Protocol):
    """An open engine; a context manager that frees what it holds."""

    @property
    def provider(self) -> str:
        """What really runs the network (`"CPUExecutionProvider"`)."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain data: backend, versions, threads, `min_batch`, `max_batch` (0 = no limit), compute precisions."""
        ...

    def run(self, inputs: NetInputs) -> NDArray[np.float32]:
        """Run one batch.

        Args:
            inputs: Pictures in 0..1, float32 `[B, C, H, W]`, or tokens int64 `[B, L]`.

        Returns:
            Logits, float32 `[B, K]`.

        Raises:
            DataError: `inputs` has another type or shape than the engine takes.
            BuildError: The engine failed, or the runner is closed.
        """
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Backend(Protocol):
    """Turns ONNX models into engines and engines into runners."""

    @property
    def name(self) -> str:
        """Its registered name."""
        ...

    def available(self) -> str | None:
        """Return None when the backend can do all its work on this machine, else the reason why not."""
        ...

    def build(self, model: OnnxModel, folder: Path, options: BuildOptions) -> Engine:
        """Build an engine into `folder`, with a `build.json` that tells how.

        Args:
            model: The network, its precision written into the graph.
            folder: Where to write; made when missing.
            options: What to build for.

        Returns:
            The engine; its facts are what `build.json` holds.

        Raises:
            BuildError: The builder refused; the message carries its own words.
            TargetError: This backend cannot build for that target, or not here.
            PreconditionError: A package is missing.
        """
        ...

    def open(self, engine: Engine) -> Runner:
        """Make an engine ready to run.

        Raises:
            TargetError: It cannot run on this machine.
            BuildError: The engine is missing, altered, or refused by its runtime.
            PreconditionError: A package is missing.
        """
        ...


def model_facts(model: OnnxModel) -> dict[str, Any]:
    """Return what `build.json` says of the model that an engine was made from."""
    return {
        "onnx_sha256": model.file.sha256,
        "flavour": model.flavour,
        "opset": model.opset,
        "input_name": model.input_name,
        "input_shape": list(model.input_shape),
        "output_name": model.output_name,
    }
