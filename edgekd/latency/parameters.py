"""Fitted numbers of the latency model, read from one versioned data file, and the choice of a set for a target."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgekd.core.artifacts import Precision
from edgekd.core.config import StrictModel, read_yaml, validated
from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import TargetError
from edgekd.latency.kernel_model import Hardware, KernelParameters
from edgekd.targets import Target, target_names

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class KernelEntry(StrictModel):
    """The numbers of `KernelParameters`."""

    eff_kxk: Positive
    eff_1x1: Positive
    eff_depthwise: Positive
    eff_grouped: Positive
    eff_matmul: Positive
    half_columns: Positive
    half_inner: Positive
    eff_bandwidth: Positive
    chip_bytes: Positive
    floor_cycles: Positive
    light_share: Positive
    constant_us: Positive
    overlap: Positive
    occupancy_exponent: Positive
    tail_exponent: Positive
    group_share: Positive
    gate_cost: Positive
    host_gb_s: Positive


class PrecisionEntry(StrictModel):
    """How another precision compares with fp16: kernel time above the floor is multiplied by `factor`."""

    factor: Positive
    half_width_log: NotNegative
    rows: Annotated[int, Field(ge=0)]
    origin: str


class CalibrationEntry(StrictModel):
    """Where the interval comes from; half-widths are in natural log, for 90 % coverage, independent of each other.

    `model` is the error on a network that was not fitted, `family` what is added outside the ranges because all
    networks measured are of one kind, `device` what is added on a board that was not fitted, the slopes what is added
    for each e-fold below and above the ranges, `uncalibrated` what is added if all time is in unseen kinds of kernel.
    `kind_shares` is the largest share of a network's time that a kind with an efficiency of its own had: more than that
    counts as unseen.
    """

    models: Annotated[int, Field(ge=1)]
    points: Annotated[int, Field(ge=1)]
    families: tuple[str, ...]
    kinds: tuple[str, ...]
    kind_shares: dict[str, NotNegative]
    model_half_width_log: Positive
    family_half_width_log: NotNegative
    device_half_width_log: Positive
    slope_below_log: NotNegative
    slope_above_log: NotNegative
    uncalibrated_half_width_log: NotNegative
    log_macs: tuple[float, float]
    log_kernels: tuple[float, float]
    log_macs_per_kernel: tuple[float, float]
    held_out_mape: NotNegative


class Lin4Entry(StrictModel):
    """Coefficients of the LIN4 baseline of one device, in milliseconds."""

    constant_ms: float
    per_gmac_ms: float
    per_conv_melem_ms: float
    per_weight_melem_ms: float
    per_kernel_ms: float


class ParameterSet(StrictModel):
    """One fit.

    `applies_to` names devices or generations; `device_offsets_log` is each fitted board's own bias, in natural log;
    `tail_factor` is the 99th percentile over the median, estimated from above.
    """

    applies_to: tuple[str, ...]
    measured: str
    prior: str
    kernel: KernelEntry
    device_offsets_log: dict[str, float]
    precisions: dict[Precision, PrecisionEntry]
    calibration: CalibrationEntry
    tail_factor: Annotated[float, Field(ge=1)]
    tail_origin: str
    lin4: dict[str, Lin4Entry]


class Transfer(StrictModel):
    """A generation nobody measured, predicted with another's parameters."""

    use: str
    half_width_log: Positive


class ParameterFile(StrictModel):
    """The whole data file."""

    schema_version: Literal[1]
    made_by: str
    data_sha256: dict[str, str]
    sets: dict[str, ParameterSet]
    transfers: dict[str, Transfer]

    @cached_property
    def digest(self) -> str:
        """Content digest."""
        return sha256_of_json(["ParameterFile", self.model_dump(mode="json")])


class ChosenSet(StrictModel):
    """The fit used for a target, and what had to be assumed.

    Attributes:
        name: Its key in the data file.
        parameters: The fit.
        is_fitted_device: Whether this very board was measured.
        transfer: Set when another generation's parameters stand in.
        digest: Digest of the data file.
    """

    name: str
    parameters: ParameterSet
    is_fitted_device: bool
    transfer: Transfer | None
    digest: str

    @property
    def kernel(self) -> KernelParameters:
        """The kernel model's numbers."""
        return KernelParameters(**self.parameters.kernel.model_dump())


@lru_cache(maxsize=1)
def load_parameters() -> ParameterFile:
    """Read the built-in parameters; raises `ConfigError` when the file is not valid."""
    path = Path(str(files("edgekd.latency") / "data" / "ops_parameters.yaml"))
    return validated(ParameterFile, read_yaml(path), str(path))


class OwnFit(StrictModel):
    """A board's own parameters, as its file keeps them under `latency`.

    Attributes:
        made_by: The command.
        prior: The built-in set it started from.
        networks: Networks that were measured, with their median in milliseconds.
        parameters: The fit.
    """

    made_by: str
    prior: str
    networks: dict[str, Positive]
    parameters: ParameterSet


def parameters_for(target: Target) -> ChosenSet:
    """Choose the fit for a target: its own, else its generation's, else one declared to stand in.

    Args:
        target: The device.

    Returns:
        The fit with the assumptions made.

    Raises:
        ConfigError: The board's own fit is malformed.
        TargetError: Nothing was measured on this kind of device or a near one.
    """
    if target.latency is not None:
        return _own(target, target.latency)
    document = load_parameters()
    for wanted in (target.device, target.generation):
        for name, entry in document.sets.items():
            if wanted in entry.applies_to:
                return ChosenSet(
                    name=name,
                    parameters=entry,
                    is_fitted_device=target.device in entry.device_offsets_log,
                    transfer=None,
                    digest=document.digest,
                )
    if target.generation not in document.transfers:
        known = sorted(
            {name for entry in document.sets.values() for name in entry.applies_to} | set(document.transfers)
        )
        raise TargetError(
            f"no latency parameters for {target.name!r} (generation {target.generation!r}); "
            f"known: {', '.join(known)}. Measure on the device instead"
        )
    transfer = document.transfers[target.generation]
    return ChosenSet(
        name=transfer.use,
        parameters=document.sets[transfer.use],
        is_fitted_device=False,
        transfer=transfer,
        digest=document.digest,
    )


def _own(target: Target, latency: Mapping[str, Any]) -> ChosenSet:
    fit = validated(OwnFit, latency, f"latency parameters of {target.name}")
    offsets = dict.fromkeys([target.device], sum(fit.parameters.device_offsets_log.values()))
    boards = fit.parameters.applies_to
    is_another = target.device not in boards and target.device in target_names()
    board = ", ".join(boards) if is_another else target.device
    return ChosenSet(
        name=f"{board}, fitted on {len(fit.networks)} networks of one's own",
        parameters=fit.parameters.model_copy(update={"device_offsets_log": offsets}),
        is_fitted_device=not is_another,
        transfer=None,
        digest=sha256_of_json(["OwnFit", fit.model_dump(mode="json")]),
    )


def fp16_hardware(target: Target) -> Hardware:
    """Return what the kernel model needs of a target at fp16, the precision it is fitted at.

    Args:
        target: The device.

    Returns:
        Peak, bandwidth and clock.

    Raises:
        TargetError: The figures are not known, or the device has no fast fp16.
    """
    missing = [
        name
        for name, value in (
            ("sms", target.sms),
            ("clock_mhz", target.clock_mhz),
            ("bandwidth_gb_s", target.bandwidth_gb_s),
            ("peaks_tflops.fp16", target.peaks_tflops.get("fp16")),
        )
        if value is None
    ]
    if missing or target.sms is None or target.clock_mhz is None or target.bandwidth_gb_s is None:
        raise TargetError(f"{target.name!r} cannot be predicted: {', '.join(missing)} unknown; measure on the device")
    return Hardware(
        peak_ops_s=target.peaks_tflops["fp16"] * 1e12,
        bandwidth_bytes_s=target.bandwidth_gb_s * 1e9,
        clock_hz=target.clock_mhz * 1e6,
        sms=target.sms,
        bytes_per_elem=2,
        channel_multiple=8,
    )


PREDICTED: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""Precisions that parameters were fitted or estimated for."""


def require_precision(target: Target, precision: Precision) -> None:
    """Check that a device runs a precision at speed; raises `TargetError` when it does not."""
    if precision not in target.peaks_tflops:
        known = ", ".join(sorted(target.peaks_tflops)) or "nothing known"
        raise TargetError(f"{target.name!r} has no fast {precision}: it runs {known}")
    if precision not in PREDICTED:
        raise TargetError(
            f"{precision} was never measured on any device, so it is not predicted: only {', '.join(PREDICTED)}"
        )


def predictable_precisions(target: Target) -> tuple[Precision, ...]:
    """List the precisions a target can be predicted at.

    Args:
        target: The device.

    Returns:
        Those of fp32, fp16 and int8 that it runs at speed.

    Raises:
        TargetError: Nothing can be predicted for it.
    """
    fp16_hardware(target)
    return tuple(precision for precision in PREDICTED if precision in target.peaks_tflops)
