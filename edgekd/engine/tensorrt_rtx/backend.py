"""TensorRT-RTX: compiles engines for desktop GPUs ahead of time, on a machine that needs no GPU.

What comes out is a real plan for GeForce, RTX and A100-class GPUs; kernels are finished by a JIT on the end machine.
It is neither a Jetson engine nor a TensorRT one, and says nothing about latency.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

from edgekd.core.artifacts import Engine, OnnxModel
from edgekd.core.errors import BuildError, TargetError, missing_package
from edgekd.engine.backend import BuildOptions, Runner
from edgekd.engine.cuda_driver import Gpus, visible_gpus
from edgekd.engine.device_memory import DeviceMemory, open_device_memory
from edgekd.engine.model_check import checked_model, require_intact
from edgekd.engine.plan_process import PlanBuilder
from edgekd.engine.plan_runner import PlanRunner
from edgekd.engine.portability import TIED

if TYPE_CHECKING:
    from edgekd.targets import Target

CAPABILITIES: Mapping[int, str] = MappingProxyType(
    {75: "SM75", 80: "SM80", 86: "SM86", 89: "SM89", 120: "SM120", 121: "SM121"}
)
_NAME = "tensorrt_rtx"


class TensorRtRtx:
    """The `tensorrt_rtx` backend.

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
        """Return None when engines can be built here; running them needs a GPU besides, see `open`."""
        try:
            self._load()
        except ImportError as error:
            return f"{missing_package(_NAME, 'rtx', 'building TensorRT-RTX engines')} ({error})"
        return None

    def build(self, model: OnnxModel, folder: Path, options: BuildOptions) -> Engine:
        """Build a plan for the target's GPU architecture; see `Backend.build`."""
        capability = compute_capability(options.target)
        checked_model(model, options)
        _require_flavour(model)
        if options.portability != TIED:
            raise BuildError(
                "TensorRT-RTX engines are finished on the machine they run on: they take no version or hardware "
                "compatibility"
            )
        if self.available() is not None:
            raise missing_package(_NAME, "rtx", "building TensorRT-RTX engines")
        sm = f"sm_{options.target.sm}"
        return PlanBuilder(_NAME, "edgekd.engine.tensorrt_rtx.build", sm, capability).build(model, folder, options)

    def open(self, engine: Engine) -> Runner:
        """Load a plan on a GPU it was built for; see `Backend.open`. Not run on hardware yet."""
        path = require_intact(engine)
        found = self._gpus()
        if engine.target not in {f"sm_{sm}" for sm in found.sms}:
            here = found.reason or "this machine has " + ", ".join(f"sm_{sm}" for sm in found.sms)
            raise TargetError(
                f"running this TensorRT-RTX engine needs an NVIDIA GPU of {engine.target} and its driver: {here}"
            )
        try:
            trt = self._load()
        except ImportError as error:
            raise missing_package(_NAME, "rtx", "running TensorRT-RTX engines") from error
        return PlanRunner(trt, path.read_bytes(), engine, self._open_memory())


def compute_capability(target: Target) -> str:
    """Return the builder's name for a target's GPU architecture (`"SM86"`).

    Raises:
        TargetError: TensorRT-RTX does not build for it.
    """
    known = ", ".join(f"sm_{sm}" for sm in CAPABILITIES)
    if target.kind == "jetson":
        raise TargetError(
            f"TensorRT-RTX does not build for Jetson ({target.name}, sm_{target.sm}); it builds for {known}. "
            "Build on the board with the tensorrt backend"
        )
    if target.sm is None:
        raise TargetError(f"{target.name} has no NVIDIA GPU; TensorRT-RTX builds for {known}")
    if target.sm not in CAPABILITIES:
        raise TargetError(
            f"TensorRT-RTX does not build for sm_{target.sm} ({target.name}); it builds for {known}. "
            "Build on such a GPU with the tensorrt backend"
        )
    return CAPABILITIES[target.sm]


def _require_flavour(model: OnnxModel) -> None:
    if model.flavour == "cpu":
        raise BuildError(
            "this int8 model has unsigned activations for CPUs, which TensorRT-RTX does not take; quantise it again "
            "with flavour 'tensorrt'"
        )
