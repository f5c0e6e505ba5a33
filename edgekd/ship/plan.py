"""What a device is told: whom a bundle is for, how to build the engine there, and what the engine must then show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgekd_agent import BuildPlan, Health, OptProfile, Provenance, TargetSelector

import edgekd
from edgekd.core.artifacts import OnnxModel, Precision
from edgekd.core.budget import Budget
from edgekd.core.errors import ConfigError
from edgekd.ship.golden import GOLDEN_PATH

_FIRST_TF32_SM = 80
_FIRST_STRONG_TYPING = 10
_WEAK_TYPING_FLAGS: Mapping[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("FP16",),
    "int8": ("INT8",),
    "bf16": ("BF16",),
    "fp8": ("FP8",),
}


class TargetFacts(Protocol):
    """What of a target a bundle needs to know; `edgekd.targets.Target` has it."""

    @property
    def name(self) -> str:
        """Name it was asked for by."""

    @property
    def device(self) -> str:
        """The one name of the device."""

    @property
    def title(self) -> str:
        """Name for people."""

    @property
    def kind(self) -> Literal["jetson", "gpu", "cpu"]:
        """Which family of devices."""

    @property
    def sm(self) -> int | None:
        """Compute capability times ten."""

    @property
    def power_mode(self) -> str:
        """Power mode the facts belong to."""

    @property
    def jetpack(self) -> str | None:
        """JetPack version."""

    @property
    def tensorrt(self) -> str | None:
        """TensorRT version."""

    @property
    def cuda(self) -> str | None:
        """CUDA version."""


UNKNOWN_SHA256 = "0" * 64
"""Digest of a recipe or data set that nobody named."""

_TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 0.1, "int8": 0.25, "fp8": 0.25}


@dataclass(frozen=True)
class BundlePlan:
    """Everything in a manifest besides its name, version and files.

    Attributes:
        created: UTC time, `2026-01-31T12:00:00Z`; given by the caller, so that equal calls give equal bytes.
        targets: Devices the bundle is for.
        build: How the device builds the engine.
        health: What the engine must show.
        provenance: Where the model came from.
    """

    created: str
    targets: tuple[TargetSelector, ...]
    build: BuildPlan
    health: Health
    provenance: Provenance


def member_path(role: str, suffix: str) -> str:
    """Return where a file lies in a bundle: its role names it, whatever it was called before."""
    return f"{role}{suffix}"


def target_selector(target: TargetFacts) -> TargetSelector:
    """Describe a target as a bundle's selector of devices."""
    return TargetSelector(
        name=target.name,
        device=target.device,
        title=target.title,
        kind=target.kind,
        sm=target.sm,
        power_mode=target.power_mode,
        jetpack=target.jetpack,
        tensorrt=target.tensorrt,
        cuda=target.cuda,
    )


def build_plan(
    model: OnnxModel, target: TargetFacts, *, role: str, max_batch: int = 1, workspace_mib: int = 1024
) -> BuildPlan:
    """Plan how a target builds an engine from a model.

    Types are in the ONNX. TensorRT 10 and later obey them (strong typing); the 8.x line has no strong typing and needs
    the builder flag of the precision too.

    Args:
        model: The model to build.
        target: Where it will be built.
        role: Role of the model among the bundle's files.
        max_batch: Largest batch of a model with a dynamic one.
        workspace_mib: Limit of builder scratch memory.

    Returns:
        The plan.

    Raises:
        ConfigError: `max_batch` is below 1 or goes beyond the model's fixed batch.
    """
    if max_batch < 1 or (model.batch and max_batch > model.batch):
        limit = f"1..{model.batch}" if model.batch else "at least 1"
        raise ConfigError(f"max_batch is {max_batch}; this model takes {limit}")
    smallest, largest = (model.batch, model.batch) if model.batch else (1, max_batch)
    is_tensorrt = target.kind != "cpu"
    is_strong = is_tensorrt and _major(target.tensorrt) >= _FIRST_STRONG_TYPING
    flags = set(() if is_strong or not is_tensorrt else _WEAK_TYPING_FLAGS[model.precision])
    if is_tensorrt and (target.sm or 0) >= _FIRST_TF32_SM:
        flags.add("TF32")
    return BuildPlan(
        backend="tensorrt" if is_tensorrt else "onnxruntime",
        model=member_path(role, ".onnx"),
        precision=model.precision,
        strongly_typed=is_strong,
        flags=tuple(sorted(flags)),
        opt_profile=OptProfile(
            model.input_name,
            (smallest, *model.input_shape),
            (smallest, *model.input_shape),
            (largest, *model.input_shape),
        ),
        workspace_mib=workspace_mib,
        timing_cache="equal-key-only" if is_tensorrt else "none",
    )


def _major(tensorrt: str | None) -> int:
    if tensorrt is None:
        return _FIRST_STRONG_TYPING
    head = tensorrt.partition(".")[0]
    if not head.isdigit():
        raise ConfigError(f"TensorRT version {tensorrt!r} of the target does not start with a number")
    return int(head)


def health_check(
    *,
    tolerance: float,
    metric: Literal["max_abs_error", "argmax_disagreement"] = "max_abs_error",
    budget: Budget | None = None,
    warmup: int = 20,
    max_memory_mib: int | None = None,
) -> Health:
    """Say what an engine must show on the device.

    Args:
        tolerance: Largest accepted value of the metric on the golden inputs.
        metric: `"max_abs_error"` of the logits, or `"argmax_disagreement"` as a share 0..1.
        budget: Latency limits, or None.
        warmup: Runs before timing.
        max_memory_mib: Memory ceiling, or None.

    Returns:
        The health section.
    """
    budget_ms = {clause.metric: clause.limit for clause in budget.limits} if budget else {}
    return Health(GOLDEN_PATH, metric, tolerance, budget_ms, warmup, max_memory_mib)


def usual_tolerance(precision: Precision, largest_logit: float) -> float:
    """Return the largest error of a logit that rounding to a precision explains.

    Args:
        precision: Precision of the model.
        largest_logit: Largest magnitude among the expected logits.
    """
    return _TOLERANCES[precision] * max(largest_logit, 1.0)


def provenance(
    *, recipe_sha256: str, data_sha256: str, parents: Sequence[str], metrics: Mapping[str, float]
) -> Provenance:
    """Say where a model came from; the program and version are filled in."""
    return Provenance(recipe_sha256, data_sha256, tuple(parents), dict(metrics), f"edgekd {edgekd.__version__}")
