"""The stage that chooses the student: predicted for a board that is elsewhere, measured where it is this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.core.artifacts import LatencyReport, NetSpec, Precision, from_json, to_json
from edgekd.core.budget import LATENCY_METRICS
from edgekd.core.errors import ConfigError, TargetError
from edgekd.data import Task
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.export import export_onnx, random_inputs
from edgekd.latency import predict
from edgekd.models import (
    FAMILIES,
    PRUNED,
    build,
    count_macs,
    deploy,
    find_prunable,
    prune,
    spec_for,
)
from edgekd.pipeline.candidates import kernels_of
from edgekd.pipeline.context import RunContext
from edgekd.pipeline.found import read_found
from edgekd.pipeline.networks import network_for
from edgekd.profile import measure
from edgekd.search import Choice, Sized, Space, candidates, choose_student, memory_bytes, not_above
from edgekd.targets import Target

JUDGED = (*LATENCY_METRICS, "memory")
"""What a run can limit: latency, and the memory of weights and of the largest input and output of a kernel together."""

_SWEEP_SECONDS = 0.3


def student_for(context: RunContext, teacher: NetSpec, teacher_net: nn.Module) -> tuple[NetSpec, str]:
    """Choose the student, before anything is trained: only sizes and latencies decide.

    Args:
        context: The run.
        teacher: Architecture of the teacher, which limits the student's size.
        teacher_net: It as a network, trained or not.

    Returns:
        Its architecture, and why in one sentence.

    Raises:
        BudgetExceeded: No student of the space keeps the budget.
        ConfigError: The space is empty, its family gives answers of another form than the task needs, or the teacher
            cannot be cut.
        PreconditionError: torch-pruning is needed and missing.
        TargetError: The target's ONNX parser is too old for the student's family.
    """
    config = context.config
    if config.student.found is not None:
        return _found(context, Path(config.student.found))
    if config.student.net is not None:
        return _own(context, config.student.net)
    require_opset(teacher.family if config.student.family == PRUNED else config.student.family, context.target)
    # What is not used is left out, so that such a run has the key that it had before there was such a thing.
    unused = {"net"} if config.student.family == PRUNED else {"net", "keeps"}
    inputs = {
        "student": config.student.model_dump(mode="json", exclude=unused),
        "budget": str(context.budget) if context.budget else None,
        "target": context.target.digest,
        "teacher": teacher.digest,
        "data": context.dataset.digest,
        "threads": config.threads,
    }
    result = context.ledger.stage("choose", inputs, lambda: _record(_choice(context, teacher, teacher_net)))
    return from_json(NetSpec, result["spec"]), str(result["reason"])


def precision_on(target: Target) -> Precision:
    """The precision that students are compared in: what the target is expected to run."""
    return "fp32" if target.kind == "cpu" else "fp16"


def require_opset(family: str, target: Target) -> None:
    """Refuse, before anything is trained, a family whose operators a target's ONNX parser is too old for.

    Args:
        family: The student's family; of a foreign network nothing is known before its export.
        target: Device the student is for.

    Raises:
        TargetError: It is.
    """
    least = FAMILIES[family].least_opset if family in FAMILIES else 0
    if target.max_opset < least:
        raise TargetError(
            f"{family} has operators of ONNX opset {least}, {target.name} takes opset {target.max_opset} at most: "
            "choose a newer target or another family (--student)"
        )


def _found(context: RunContext, path: Path) -> tuple[NetSpec, str]:
    """Take a student that a search found, once it is known to keep the budget here too."""
    found, dataset = read_found(path), context.dataset
    if (found.spec.input_shape, found.spec.num_classes) != (dataset.input_shape, dataset.task.num_outputs):
        raise ConfigError(
            f"student {path} takes {list(found.spec.input_shape)} and has {found.spec.num_classes} outputs; the data "
            f"are {list(dataset.input_shape)} with {dataset.task.num_outputs}"
        )
    return _given(context, found.spec, f"{found.spec.name} was found by edgekd search ({path})")


def _own(context: RunContext, ref: str) -> tuple[NetSpec, str]:
    """Take a network of the user's own, once it is known to fit the data and to keep the budget."""
    config = context.config.student
    spec, _ = network_for(ref, context.dataset, role="student", mean=config.mean, std=config.std)
    return _given(context, spec, f"{spec.name} was given")


def _given(context: RunContext, spec: NetSpec, reason: str) -> tuple[NetSpec, str]:
    inputs = {
        "student": spec.digest,
        "budget": str(context.budget) if context.budget else None,
        "target": context.target.digest,
        "threads": context.config.threads,
    }

    def choose() -> dict[str, Any]:
        member = Sized(spec, _macs(spec))
        choice = _chosen(context, [member])
        return _record(Choice(choice.spec, reason, choice.considered))

    result = context.ledger.stage("choose", inputs, choose)
    return from_json(NetSpec, result["spec"]), str(result["reason"])


def multiple_on(target: Target) -> int:
    """In multiples of how many channels a network is cut: what the target's kernels work in."""
    return 4 if target.kind == "cpu" else 8


def _choice(context: RunContext, teacher: NetSpec, teacher_net: nn.Module) -> Choice:
    max_macs = int(context.config.student.max_share * count_macs(teacher_net, teacher.input_shape))
    is_cut = context.config.student.family == PRUNED
    members = _cut(context, teacher, teacher_net, max_macs) if is_cut else _drawn(context, max_macs)
    choice = _chosen(context, members)
    context.note("choose", choice.reason)
    return choice


def _chosen(context: RunContext, members: Sequence[Sized]) -> Choice:
    return choose_student(
        members,
        context.budget,
        latency_of=lambda spec: _latency(context, spec),
        memory_mb_of=lambda spec: memory_bytes(kernels_of(spec), precision_on(context.target)) / 1e6,
        grows=context.target.kind == "cpu",
    )


def _cut(context: RunContext, teacher: NetSpec, teacher_net: nn.Module, max_macs: int) -> tuple[Sized, ...]:
    """List the teacher with fewer channels, every layer keeping the same share: the weights decide nothing of this."""
    prunable, multiple = find_prunable(teacher_net, teacher.input_shape, name=teacher.name), multiple_on(context.target)
    keeps = sorted(set(context.config.student.keeps))
    specs = [prune(teacher_net, teacher, prunable, keep=keep, multiple=multiple)[0] for keep in keeps]
    return not_above(max_macs, specs, macs_of=_macs, named=f"{teacher.name} with shares {keeps} of its channels")


def _drawn(context: RunContext, max_macs: int) -> tuple[Sized, ...]:
    config, dataset = context.config.student, context.dataset
    _require_form(config.family, dataset.task)

    def make(depth: int, width: int) -> NetSpec:
        return spec_for(
            config.family,
            depth=depth,
            width=width,
            in_channels=dataset.in_channels,
            num_classes=dataset.task.num_outputs,
            resolution=dataset.resolution,
            mean=config.mean or dataset.mean,
            std=config.std or dataset.std,
            options=config.options,
            vocabulary=dataset.vocabulary,
        )

    space = Space(config.family, config.depths, config.widths)
    return candidates(space, make=make, macs_of=_macs, max_macs=max_macs)


def _macs(spec: NetSpec) -> int:
    return count_macs(build(spec), spec.input_shape)


def _require_form(family: str, task: Task) -> None:
    is_dense = FAMILIES[family].is_dense
    if is_dense != task.is_dense:
        given, needed = ("each pixel", "each input") if is_dense else ("each input", "each pixel")
        fitting = [name for name in FAMILIES if FAMILIES[name].is_dense == task.is_dense]
        raise ConfigError(
            f"students of family {family} answer for {given}, {task.kind} needs an answer for {needed}: "
            f"choose --student from {', '.join(fitting)}"
        )


def _latency(context: RunContext, spec: NetSpec) -> LatencyReport:
    if context.target.kind != "cpu":
        return predict(kernels_of(spec), context.target, precision_on(context.target))
    with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch:
        path = Path(scratch) / "candidate.onnx"
        onnx = export_onnx(deploy(build(spec)), path, input_shape=spec.input_shape, opset=context.target.max_opset)
        backend = BACKENDS["onnxruntime"]
        options = BuildOptions(context.target, threads=context.config.threads)
        with backend.open(backend.build(onnx, Path(scratch) / "engine", options)) as runner:
            inputs = random_inputs(onnx, 1, seed=0)
            return measure(runner, inputs, target="cpu", precision="fp32", min_seconds=_SWEEP_SECONDS).report


def _record(choice: Choice) -> dict[str, Any]:
    return {
        "spec": to_json(choice.spec),
        "reason": choice.reason,
        "considered": [
            {
                "net": item.spec.name,
                "macs": item.macs,
                "kind": item.latency.kind,
                "figures": dict(item.figures),
                "is_kept": item.is_kept,
            }
            for item in choice.considered
        ],
    }
