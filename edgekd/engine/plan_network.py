"""From an ONNX file to a serialised plan through the Python API that TensorRT and TensorRT-RTX share.

The module is an argument: `tensorrt` 8.5 to 11.x and `tensorrt_rtx` have these names in common, and everything that
differs between them is asked of the module itself, never of its version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from edgekd.engine.plan_job import PlanJob
from edgekd.engine.portability import LEVELS, Portability

Progress = Callable[[str, int, int], None]


class BuildRefused(Exception):
    """The builder said no; carries its messages to the end of the build process."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = list(errors)


@dataclass
class BuilderLog:
    """Everything a builder said, in order.

    Attributes:
        messages: Pairs of severity name (`"ERROR"`) and text.
    """

    messages: list[tuple[str, str]] = field(default_factory=list)

    def errors(self) -> list[str]:
        """Return the texts of errors."""
        return [text for severity, text in self.messages if severity.endswith("ERROR")]

    def warnings(self) -> list[str]:
        """Return the texts of warnings, each once."""
        return list(dict.fromkeys(text for severity, text in self.messages if severity == "WARNING"))


def make_logger(trt: ModuleType, log: BuilderLog, echo: Callable[[str], None]) -> Any:
    """Make a logger object of the module that fills `log` and passes every message to `echo`."""

    def initialise(self: Any) -> None:
        trt.ILogger.__init__(self)

    def receive(self: Any, severity: Any, message: str) -> None:
        name = _severity(severity)
        log.messages.append((name, message))
        echo(f"{name} | {message}")

    return type("EdgekdLogger", (trt.ILogger,), {"__init__": initialise, "log": receive})()


def parse_network(trt: ModuleType, builder: Any, logger: Any, job: PlanJob, flags: int) -> tuple[Any, Any]:
    """Parse the ONNX file into a new network.

    Args:
        trt: The module.
        builder: Its builder.
        logger: Its logger.
        job: Names the file.
        flags: Network creation flags.

    Returns:
        The network and its parser; both must be kept alive until the build is over.

    Raises:
        BuildRefused: Every error of the parser, with node names where it gives them.
    """
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(job.onnx)):
        raise BuildRefused([_parser_error(parser.get_error(index)) for index in range(parser.num_errors)])
    return network, parser


def make_config(trt: ModuleType, builder: Any, job: PlanJob, progress: Progress) -> Any:
    """Make a builder configuration: detailed verbosity, workspace, optimisation level, batch profile, progress monitor.

    Raises:
        BuildRefused: This builder has no optimisation levels.
    """
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mb << 20)
    set_optimization_level(trt, config, job.optimization_level)
    if job.batches:
        opt_profile = builder.create_optimization_profile()
        opt_profile.set_shape(job.input_name, *((batch, *job.input_shape) for batch in job.batches))
        config.add_optimization_profile(opt_profile)
    if hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor"):
        config.progress_monitor = _make_monitor(trt, progress)
    return config


def make_portable(trt: ModuleType, config: Any, portability: Portability) -> None:
    """Set a builder configuration; raises `BuildRefused` where this TensorRT cannot do it."""
    if portability.version:
        if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
            raise BuildRefused([f"TensorRT {trt.__version__} builds no version-compatible plans; 8.6 was the first"])
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if portability.hardware != "none":
        level = LEVELS[portability.hardware]
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        if not hasattr(levels, level):
            raise BuildRefused([f"TensorRT {trt.__version__} knows no hardware compatibility {portability.hardware}"])
        config.hardware_compatibility_level = getattr(levels, level)


def set_optimization_level(trt: ModuleType, config: Any, level: int | None) -> None:
    """Set how long a builder looks for fast kernels, 0 to 5; raises `BuildRefused` where it cannot be told."""
    if level is None:
        return
    if not hasattr(type(config), "builder_optimization_level"):
        raise BuildRefused([f"TensorRT {trt.__version__} has no optimisation levels; 8.6 was the first"])
    config.builder_optimization_level = level


def serialized_plan(builder: Any, network: Any, config: Any, log: BuilderLog) -> bytes:
    """Build and serialise; raises `BuildRefused` with the builder's own errors when it gives no plan."""
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildRefused(log.errors() or ["the builder gave no plan and no reason"])
    return bytes(plan)


def network_facts(network: Any) -> dict[str, Any]:
    """Count the layers of a parsed network, before any fusion."""
    return {"num_parsed_layers": int(network.num_layers)}


def _make_monitor(trt: ModuleType, progress: Progress) -> Any:
    totals: dict[str, int] = {}

    def initialise(self: Any) -> None:
        trt.IProgressMonitor.__init__(self)

    def phase_start(self: Any, phase: str, parent: str | None, steps: int) -> None:
        totals[phase] = steps
        progress(phase, 0, steps)

    def step_complete(self: Any, phase: str, step: int) -> bool:
        progress(phase, step + 1, totals.get(phase, 0))
        return True

    def phase_finish(self: Any, phase: str) -> None:
        steps = totals.pop(phase, 0)
        progress(phase, steps, steps)

    members = {
        "__init__": initialise,
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    return type("EdgekdProgress", (trt.IProgressMonitor,), members)()


def _parser_error(error: Any) -> str:
    where = f"node {error.node()}"
    if hasattr(error, "node_name") and hasattr(error, "node_operator"):
        where += f" {error.node_name()!r} ({error.node_operator()})"
    return f"{where}: {error.desc()}"


def _severity(severity: Any) -> str:
    return str(getattr(severity, "name", severity)).rsplit(".", maxsplit=1)[-1]
