"""TensorRT: builds on the GPU it builds for, from 8.5 (JetPack 5) to 11.x.

Not run on hardware yet. Every name used is checked against those of the true 8.6, 10.3, 10.14 and 11.4 bindings, and
the whole path against a fake restricted to them; timing, kernels and real inspector output wait for a board.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.core.artifacts import Engine, OnnxModel
from edgekd.core.errors import BuildError, TargetError, missing_package
from edgekd.engine.backend import BuildOptions, Runner
from edgekd.engine.cuda_driver import Gpus, visible_gpus
from edgekd.engine.device_memory import DeviceMemory, device_memory_reason, open_device_memory
from edgekd.engine.model_check import checked_model, require_intact
from edgekd.engine.plan_process import PlanBuilder
from edgekd.engine.plan_runner import PlanRunner
from edgekd.engine.portability import loads, runs_on

_NAME = "tensorrt"


class TensorRt:
    """The `tensorrt` backend.

    Args:
        load: Imports its Python module; raises `ImportError` when it is not installed.
        gpus: Asks the driver for GPUs.
        open_memory: Opens device memory for a runner.
    """

    name = _NAME

    def __init__(
        self,
        load: Callable[[], ModuleType] = lambda: importlib.import_module(_NAME),
        gpus: Callable[[], Gpus] = visible_gpus,
        open_memory: Callable[[], DeviceMemory] = open_device_memory,
    ) -> None:
        self._load = load
        self._gpus = gpus
        self._open_memory = open_memory

    def available(self) -> str | None:
        """Return None when engines can be built and run here, else the first reason why not."""
        try:
            self._load()
        except ImportError as error:
            return f"{_missing()} ({error}); on a Jetson it comes with JetPack"
        return self._gpus().reason or device_memory_reason()

    def build(self, model: OnnxModel, folder: Path, options: BuildOptions) -> Engine:
        """Build a plan on this machine's GPU; see `Backend.build`."""
        checked_model(model, options)
        if model.flavour == "cpu":
            raise BuildError(
                "this int8 model has unsigned activations for CPUs, which TensorRT does not take; quantise it again "
                "with flavour 'tensorrt'"
            )
        try:
            self._load()
        except ImportError as error:
            raise _missing() from error
        self._require_gpu(f"sm_{options.target.sm}", {}, f"building for {options.target.name}")
        if options.target.kind == "jetson" and options.portability.hardware != "none":
            raise BuildError(
                f"hardware compatibility {options.portability.hardware} is for desktop GPUs, not for Jetson boards "
                f"({options.target.name}): build on each kind of board"
            )
        return PlanBuilder(_NAME, "edgekd.engine.tensorrt.build", f"sm_{options.target.sm}").build(
            model, folder, options
        )

    def open(self, engine: Engine) -> Runner:
        """Load a plan on the GPU it was built for; see `Backend.open`."""
        path = require_intact(engine)
        try:
            trt = self._load()
        except ImportError as error:
            raise _missing() from error
        self._require_gpu(engine.target, engine.facts, "running this engine")
        version = str(trt.__version__)
        if not loads(str(engine.facts["version"]), version, engine.facts):
            raise TargetError(
                f"the engine was built by TensorRT {engine.facts['version']}, this machine has {version}; engines do "
                "not move between versions: build it again here"
            )
        return PlanRunner(trt, path.read_bytes(), engine, self._open_memory())

    def _require_gpu(self, target: str, facts: Mapping[str, Any], purpose: str) -> None:
        found = self._gpus()
        if not any(runs_on(target, sm, facts) for sm in found.sms):
            here = found.reason or "this machine has " + ", ".join(f"sm_{sm}" for sm in found.sms)
            raise TargetError(f"{purpose} needs a GPU of {target} on this machine: {here}")


def _missing() -> Exception:
    return missing_package(_NAME, "trt", "building and running TensorRT engines")
