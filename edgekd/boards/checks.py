"""What is wrong with a board for a model is said before anything is sent, all of it at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgekd.boards.dla import refusals
from edgekd.boards.facts import BoardFacts
from edgekd.boards.options import BoardOptions
from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import TargetError
from edgekd.engine.backend import BuildOptions
from edgekd.engine.model_check import checked_model
from edgekd.engine.portability import version_numbers
from edgekd.targets.schema import max_opset_of, read_opset_of
from edgekd.targets.target import Target

if TYPE_CHECKING:
    from onnx import ModelProto

_OLDEST = (8, 5)
_MIB = 1 << 20
_FAMILIES = frozenset({"agx", "nx", "nano", "xavier", "orin", "thor", "tx2"})
_NEEDED_OPTIONS = ("onnx", "saveEngine", "loadEngine", "exportTimes")

# Estimates from memory, on the safe side of small boards: the builder holds the weights several times beside the CUDA
# context and TensorRT's own libraries; the disk takes the model, the plan, its timing cache and the logs.
BUILDER_MEMORY_MIB = 700
WEIGHT_COPIES = 3
SPARE_DISK_MIB = 256


def require_fit(model: OnnxModel, facts: BoardFacts, options: BoardOptions, device: str) -> None:
    """Refuse a model that this board cannot build, or a board that is not the one meant.

    Args:
        model: What to build.
        facts: The board as found.
        options: What is asked of it; names the target it must be.
        device: The board in words, for messages.

    Raises:
        TargetError: It is another device than the target, its TensorRT cannot build this, or memory or disk do not
            suffice.
        BuildError: The model itself is damaged or not what it is said to be.
        ConfigError: The batch asked for is not the model's fixed one.
    """
    problems = [*_wrong_device(facts, options.target), *_software(facts), *_resources(model, facts, options)]
    if not problems:
        proto = checked_model(model, BuildOptions(_as_target(facts), options.batch, options.max_batch))
        problems = [*_outside_data(model), *_precision(model, proto, facts)]
        problems += [*refusals(model, facts, options), *_portability(facts, options)]
    if problems:
        raise TargetError(f"{device} ({facts.words}): " + "; ".join(problems))


def warnings_of(facts: BoardFacts, options: BoardOptions) -> tuple[str, ...]:
    """Return what does not forbid the build but belongs beside its figures."""
    found = []
    wanted = options.target.power_mode if options.target else None
    if wanted and facts.power_mode and wanted.lower() != facts.power_mode.lower():
        found.append(f"the board is in power mode {facts.power_mode}, the target is {wanted}")
    if facts.is_clock_fixed is False:
        found.append("the GPU clock is not held: run `sudo jetson_clocks` there for times that repeat")
    if facts.raw["tegrastats"] is None:
        found.append("no tegrastats: power comes from the INA rails alone, where there are any")
    return tuple(found)


def _wrong_device(facts: BoardFacts, target: Target | None) -> Iterator[str]:
    if target is None:
        return
    if target.kind == "cpu":
        yield "the target cpu is this machine, not a board"
        return
    if target.kind == "jetson" and facts.l4t is None and facts.gpu is not None and not facts.gpu.is_integrated:
        yield f"wrong device: {target.name} is a Jetson, this is not"
    if target.sm is not None and facts.sm is not None and target.sm != facts.sm:
        yield f"wrong device: {target.name} is sm_{target.sm}, this is sm_{facts.sm}"
    if target.sms and facts.gpu and facts.gpu.sms > target.sms:
        yield f"wrong device: {target.name} has {target.sms} SMs, this has {facts.gpu.sms}"
    have_gb = int(facts.raw["memory"]["total_bytes"]) / 1e9
    if target.kind == "jetson" and target.memory_gb and not 0.6 * target.memory_gb < have_gb < 1.1 * target.memory_gb:
        yield f"wrong device: {target.name} has {target.memory_gb:g} GB of memory, this has {have_gb:.1f}"
    named, here = _families(f"{target.title} {target.device}"), _families(facts.model or "")
    if named and here and not here <= named:
        yield f"wrong device: {target.name} is {target.title}, this says it is {facts.model}"
    if target.tensorrt and facts.tensorrt and _line(target.tensorrt) != _line(facts.tensorrt):
        yield (
            f"wrong TensorRT: {target.name} stands for {target.tensorrt}, this has {facts.tensorrt}; leave --target "
            "out, or describe this board with `edgekd targets add`"
        )


def _software(facts: BoardFacts) -> Iterator[str]:
    if facts.sm is None:
        why = str(facts.raw["gpu"].get("error", "no reason given")).strip().splitlines()[-1:]
        yield f"no CUDA GPU: the driver does not answer ({' '.join(why)}), and the device tree names no known Tegra"
    if facts.tensorrt is None or facts.trtexec is None:
        yield (
            "neither trtexec (JetPack keeps it in /usr/src/tensorrt/bin) nor Python's tensorrt is there: "
            "sudo apt install tensorrt libnvinfer-bin"
        )
        return
    if _line(facts.tensorrt) < _OLDEST:
        yield f"TensorRT {facts.tensorrt} is older than 8.5, the oldest edgekd builds with: install a newer JetPack"
    missing = [f"--{name}" for name in _NEEDED_OPTIONS if name not in facts.trtexec.options]
    if missing:
        yield f"{facts.trtexec.command[0]} does not know {', '.join(missing)}"


def _resources(model: OnnxModel, facts: BoardFacts, options: BoardOptions) -> Iterator[str]:
    memory = WEIGHT_COPIES * model.file.size_bytes + (BUILDER_MEMORY_MIB + options.workspace_mb) * _MIB
    if facts.available_bytes < memory:
        yield (
            f"not enough memory: {facts.available_bytes // _MIB} MiB free, swap included, about {memory // _MIB} MiB "
            "needed to build (an estimate); stop the desktop and other programs there, or add swap"
        )
    disk = WEIGHT_COPIES * model.file.size_bytes + SPARE_DISK_MIB * _MIB
    if facts.free_disk_bytes < disk:
        yield (
            f"not enough disk: {facts.free_disk_bytes // _MIB} MiB free where ~/.edgekd lies, about {disk // _MIB} MiB "
            "needed; old jobs may be deleted in ~/.edgekd/jobs"
        )


def _outside_data(model: OnnxModel) -> Iterator[str]:
    import onnx

    proto = onnx.load(model.file.path, load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        yield "the model keeps weights in other files, which are not sent: save it as one file"


def _precision(model: OnnxModel, proto: ModelProto, facts: BoardFacts) -> Iterator[str]:
    if model.flavour == "cpu":
        yield "this int8 model has unsigned activations for CPUs; quantise it again with flavour 'tensorrt'"
    types = types_in(proto)
    version = _line(facts.tensorrt or "0")
    if "INT8" in types and facts.sm in (53, 62):
        yield f"sm_{facts.sm} computes no int8: build fp16"
    if "BFLOAT16" in types and (version < (9, 0) or (facts.sm or 80) < 80):
        yield "the model holds bf16, which needs TensorRT 9 and sm_80 or newer: export fp16"
    if types & {"FLOAT8E4M3FN", "FLOAT8E5M2"} and (version < (9, 0) or (facts.sm or 89) < 89):
        yield "the model holds fp8, which needs TensorRT 9 and sm_89 or newer: quantise to int8"


def _portability(facts: BoardFacts, options: BoardOptions) -> Iterator[str]:
    hardware = options.portability.hardware
    if hardware != "none" and facts.l4t is not None:
        yield f"hardware compatibility {hardware} is for desktop GPUs, not for Jetson: build on each kind of board"


def types_in(proto: ModelProto) -> set[str]:
    """Return the names of every element type that an ONNX graph holds, computes or casts to."""
    from onnx import TensorProto

    found = {tensor.data_type for tensor in proto.graph.initializer}
    values = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    found |= {value.type.tensor_type.elem_type for value in values}
    for node in proto.graph.node:
        found |= {item.i for item in node.attribute if item.name in ("to", "output_dtype")}
        found |= {item.t.data_type for item in node.attribute if item.HasField("t")}
    known = set(TensorProto.DataType.values())
    return {TensorProto.DataType.Name(number) for number in found & known}


def _as_target(facts: BoardFacts) -> Target:
    """Return the board as the target that `checked_model` compares opsets with."""
    name = facts.model or "this board"
    return Target(
        name=f"TensorRT {facts.tensorrt} of {name}",
        device="board",
        title=name,
        kind="jetson" if facts.l4t else "gpu",
        generation="unknown",
        max_opset=max_opset_of(facts.tensorrt),
        read_opset=read_opset_of(facts.tensorrt),
        sm=facts.sm,
    )


def _families(text: str) -> set[str]:
    return set(text.lower().replace("-", " ").split()) & _FAMILIES


def _line(version: str) -> tuple[int, ...]:
    return version_numbers(version)[:2]
