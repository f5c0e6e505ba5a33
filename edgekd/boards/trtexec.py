"""Argument lists for the `trtexec` of a board, made of the options its own help names; versions are never compared.

8.x and 10.x take precision flags for weakly typed networks, 10.x can be told to type strongly, 11.x always does and has
no such flags. Precision lies in the ONNX, so strong typing is asked for wherever it exists. From 11 on, CUDA graphs,
spin-wait and no copies between host and device are trtexec's defaults; they are asked for on the older ones, so that
times mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.boards.facts import Trtexec
from edgekd.boards.options import BoardOptions
from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ConfigError, TargetError

MODEL, PLAN, LAYERS, TIMES, PROFILE = "model.onnx", "model.plan", "layers.json", "times.json", "profile.json"
LAYERS_OF_RUN = "layers_of_run.json"
TIMING_CACHE = "timing.cache"
_HARDWARE = {"ampere+": "ampere+", "same-sm": "sameComputeCapability"}
_PRECISION_FLAGS = {"fp32": (), "fp16": ("fp16",), "int8": ("int8",)}


def typing_kind(tool: Trtexec, options: BoardOptions) -> str:
    """Return `"strong"` where the precision is that of the ONNX alone, else `"weak"`.

    Before TensorRT 11 a DLA takes its precision from flags.
    """
    if options.dla_core is not None and "fp16" in tool.options:
        return "weak"
    return "strong" if "stronglyTyped" in tool.options or "fp16" not in tool.options else "weak"


def build_arguments(tool: Trtexec, model: OnnxModel, options: BoardOptions) -> list[str]:
    """Return the command that builds the plan, run in the folder of the job.

    Args:
        tool: The board's trtexec.
        model: What is built; `files/model.onnx` there.
        options: Batch and workspace.

    Returns:
        Program and arguments.

    Raises:
        TargetError: It cannot build this precision without inference afterwards, or lacks an option that is needed for
            the workspace, the optimisation level or a portable plan.
        ConfigError: The model's input has a name that trtexec cannot be given.
    """
    arguments = [*tool.command, f"--onnx=files/{MODEL}", f"--saveEngine=out/{PLAN}", *_typing(tool, model, options)]
    arguments += _dla(options)
    if options.dla_core is not None and options.gpu_fallback:
        arguments += ["--allowGPUFallback"]
    arguments += _known(tool, {"profilingVerbosity": "detailed", "exportLayerInfo": f"out/{LAYERS}"})
    arguments += _known(tool, {"timingCacheFile": f"out/{TIMING_CACHE}"})
    arguments += [f"--{_first_known(tool, ('skipInference', 'buildOnly'))}"]
    if options.workspace_mb:
        arguments += [f"--{_first_known(tool, ('memPoolSize',))}=workspace:{options.workspace_mb}"]
    if options.optimization_level is not None:
        arguments += [f"--{_first_known(tool, ('builderOptimizationLevel',))}={options.optimization_level}"]
    arguments += _portability(tool, options)
    if not model.batch:
        batches = {"minShapes": options.smallest_batch, "optShapes": options.batch, "maxShapes": options.largest_batch}
        arguments += [f"--{name}={_shape(model, batch)}" for name, batch in batches.items()]
    return arguments


def times_arguments(tool: Trtexec, model: OnnxModel, options: BoardOptions) -> list[str]:
    """Return the command that times the plan and nothing else."""
    return [
        *_run(tool, model, options),
        f"--exportTimes=out/{TIMES}",
        f"--duration={options.duration_s}",
        *_known(tool, {"useCudaGraph": "", "useSpinWait": "", "noDataTransfers": ""}),
    ]


def profile_arguments(tool: Trtexec, model: OnnxModel, options: BoardOptions) -> list[str]:
    """Return the command that times each layer; profiling slows the whole down, so it is a run of its own."""
    files = {"exportProfile": f"out/{PROFILE}", "exportLayerInfo": f"out/{LAYERS_OF_RUN}"}
    files["profilingVerbosity"] = "detailed"
    return [*_run(tool, model, options), *_known(tool, files), f"--duration={options.profile_s}"]


def timing_mode(tool: Trtexec) -> dict[str, bool]:
    """Return what the times contain, as far as trtexec was told; an option it lacks is its default from 11 on."""
    return {
        "cuda_graph": not tool.is_python,
        "spin_wait": not tool.is_python,
        "data_transfers": False,
        "is_by_default": "useCudaGraph" not in tool.options,
    }


def _run(tool: Trtexec, model: OnnxModel, options: BoardOptions) -> list[str]:
    warm_up = {"warmUp": str(options.warm_up_ms)}
    shapes = [] if model.batch else [f"--shapes={_shape(model, options.batch)}"]
    return [
        *tool.command,
        f"--loadEngine=out/{PLAN}",
        *shapes,
        *_dla(options),
        *_version(tool, options),
        *_known(tool, warm_up),
    ]


def _portability(tool: Trtexec, options: BoardOptions) -> list[str]:
    level = _HARDWARE.get(options.portability.hardware)
    hardware = [] if level is None else [f"--{_first_known(tool, ('hardwareCompatibilityLevel',))}={level}"]
    return [*_version(tool, options), *hardware]


def _version(tool: Trtexec, options: BoardOptions) -> list[str]:
    """Return the option that builds a version-compatible plan, and without which such a plan is not loaded."""
    return [f"--{_first_known(tool, ('versionCompatible',))}"] if options.portability.version else []


def _dla(options: BoardOptions) -> list[str]:
    return [] if options.dla_core is None else [f"--useDLACore={options.dla_core}"]


def _typing(tool: Trtexec, model: OnnxModel, options: BoardOptions) -> list[str]:
    if typing_kind(tool, options) == "strong":
        return ["--stronglyTyped"] if "stronglyTyped" in tool.options else []
    return [f"--{_first_known(tool, (flag,))}" for flag in _PRECISION_FLAGS[model.precision]]


def _known(tool: Trtexec, wanted: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" if value else f"--{name}" for name, value in wanted.items() if name in tool.options]


def _first_known(tool: Trtexec, names: Sequence[str]) -> str:
    for name in names:
        if name in tool.options:
            return name
    raise TargetError(f"{tool.command[0]} knows none of {', '.join('--' + name for name in names)}, one is needed")


def _shape(model: OnnxModel, batch: int) -> str:
    name = model.input_name
    if "'" in name or "," in name or not name.isprintable():
        raise ConfigError(f"trtexec cannot be given an input named {name!r}; export the network with another name")
    quoted = f"'{name}'" if ":" in name else name
    return f"{quoted}:{'x'.join(map(str, (batch, *model.input_shape)))}"
