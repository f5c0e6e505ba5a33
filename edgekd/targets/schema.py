"""What a target file must look like, and which figures are impossible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edgekd.core.config import StrictModel, read_yaml
from edgekd.targets.jetpack import jetpack_line
from edgekd.targets.target import PowerMode, Target

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Peak = Literal["fp32", "tf32", "fp16", "fp16_fp32_accumulate", "bf16", "int8", "fp8", "fp8_fp32_accumulate", "fp4"]
Positive = Annotated[float, Field(gt=0)]

ALLOWED_EXCESS = 1.25
"""Peaks may be this much above SMs x FMA x clock: data sheets round, and boost clocks differ between partners."""


class PowerModeEntry(StrictModel):
    """One row of `power_modes`."""

    name: str
    id: int | None = Field(default=None, ge=0)
    clock_mhz: float | None = Field(default=None, ge=50, le=5000)
    sms: int | None = Field(default=None, ge=1, le=1000)
    emc_mhz: float | None = Field(default=None, ge=50, le=20000)
    status: str


class TargetEntry(StrictModel):
    """One target of a target file; units are in the names of the fields, peaks are dense."""

    name: Name
    title: str
    kind: Literal["jetson", "gpu", "cpu"]
    generation: Name
    sm: int | None = Field(default=None, ge=50, le=200)
    sms: int | None = Field(default=None, ge=1, le=1000)
    cuda_cores: int | None = Field(default=None, ge=1)
    tensor_cores: int | None = Field(default=None, ge=0)
    clock_mhz: float | None = Field(default=None, ge=50, le=5000)
    peaks_tflops: dict[Peak, Positive] = Field(default_factory=dict)
    bandwidth_gb_s: float | None = Field(default=None, ge=1, le=30000)
    emc_mhz: float | None = Field(default=None, ge=50, le=20000)
    l2_mb: float | None = Field(default=None, gt=0, le=1024)
    memory_gb: float | None = Field(default=None, gt=0, le=2048)
    dla_cores: int = Field(default=0, ge=0, le=8)
    dla_mhz: float | None = Field(default=None, ge=50, le=5000)
    power_mode: str
    jetpack: str | None = None
    tensorrt: str | None = None
    cuda: str | None = None
    python: str | None = None
    max_opset: int | None = Field(default=None, ge=9, le=25)
    read_opset: int | None = Field(default=None, ge=9, le=25)
    module_w: str | None = None
    advertised_tops: float | None = Field(default=None, gt=0)
    power_modes: tuple[PowerModeEntry, ...] = ()
    notes: tuple[str, ...] = ()
    status: dict[str, str]
    latency: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _figures_are_possible(self) -> TargetEntry:
        problems = list(_impossible_figures(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


class TargetFile(StrictModel):
    """A file of targets that belong together."""

    schema_version: Literal[1]
    shared: dict[str, Any] = Field(default_factory=dict)
    targets: tuple[TargetEntry, ...]

    @model_validator(mode="after")
    def _holds_something(self) -> TargetFile:
        if not self.targets:
            raise ValueError("there is no target in it")
        return self


def target_from_entry(entry: TargetEntry) -> Target:
    """Turn a checked entry into the noun.

    Args:
        entry: A target of a target file.

    Returns:
        The target under its own name, opsets filled in from its TensorRT line, every field with its status.
    """
    facts = entry.model_dump(exclude={"l2_mb", "status", "power_modes", "max_opset", "read_opset", "name"})
    given = {key for key, value in facts.items() if value not in (None, (), {})} | (
        {"l2_bytes"} if entry.l2_mb else set()
    )
    return Target(
        **facts,
        name=entry.name,
        device=entry.name,
        l2_bytes=None if entry.l2_mb is None else round(entry.l2_mb * 2**20),
        max_opset=entry.max_opset or max_opset_of(entry.tensorrt),
        read_opset=entry.read_opset or read_opset_of(entry.tensorrt),
        power_modes=tuple(PowerMode(**mode.model_dump()) for mode in entry.power_modes),
        sources=_status_by_field(entry, given),
    )


def max_opset_of(tensorrt: str | None) -> int:
    """Return the highest opset to export for a TensorRT line such as `"10.3"`; the newest known row when `None`."""
    return _of_line("max_opset", tensorrt)


def read_opset_of(tensorrt: str | None) -> int:
    """Return the highest opset that a TensorRT line such as `"10.3"` is given; the newest known row when `None`."""
    return _of_line("read_opset", tensorrt)


def _of_line(table: str, tensorrt: str | None) -> int:
    rows: list[list[Any]] = _data("tensorrt.yaml")[table]
    if tensorrt is None:
        return int(rows[-1][1])
    wanted = _major_minor(tensorrt)
    return max(int(opset) for line, opset in rows if _major_minor(str(line)) <= wanted)


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = [*map(int, version.split(".")), 0][:2]
    return major, minor


def fma_rates(sm: int) -> dict[str, int]:
    """Return the dense fused multiply-adds a clock and SM by precision; empty for an unknown architecture."""
    rates: dict[str, int] = _data("architectures.yaml")["fma_per_clock_per_sm"].get(sm, {})
    return rates


def _status_by_field(entry: TargetEntry, given: set[str]) -> dict[str, str]:
    plain = {"name", "title", "kind", "generation", "notes", "latency"}
    default = entry.status["default"]
    fields = {key: entry.status.get(key, default) for key in sorted(given - plain - {"peaks_tflops"})}
    for precision in entry.peaks_tflops:
        key = f"peaks_tflops.{precision}"
        fields[key] = entry.status.get(key, entry.status.get("peaks_tflops", default))
    if entry.power_modes:
        fields["power_modes"] = "; ".join(sorted({mode.status for mode in entry.power_modes}))
    return fields


def _impossible_figures(entry: TargetEntry) -> Iterator[str]:
    if "default" not in entry.status:
        yield "status has no 'default': say where the figures come from (S source, D derived, M memory)"
    if entry.kind == "jetson" and entry.jetpack is None and entry.name.startswith("jetson-"):
        yield "a jetson needs 'jetpack', it decides TensorRT and Python"
    if entry.peaks_tflops and None in (entry.sms, entry.clock_mhz, entry.sm):
        yield "peaks_tflops need sm, sms and clock_mhz beside them: a peak without a clock cannot be scaled"
    line = None if entry.jetpack is None else jetpack_line(entry.jetpack)
    if line is not None and entry.sm is not None and entry.sm not in line.sm:
        yield f"jetpack {entry.jetpack} does not run on sm_{entry.sm}: it has {', '.join(f'sm_{sm}' for sm in line.sm)}"
    yield from _wrong_tensorrt(entry.tensorrt)
    yield from _peaks_above_hardware(entry)
    yield from _modes_that_disagree(entry)


def _wrong_tensorrt(version: str | None) -> Iterator[str]:
    oldest = str(_data("tensorrt.yaml")["max_opset"][0][0])
    if version is None:
        return
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        yield f"tensorrt {version!r} is not a version such as 10.3"
    elif _major_minor(version) < _major_minor(oldest):
        yield f"tensorrt {version} is older than {oldest}, the first line known"


def _modes_that_disagree(entry: TargetEntry) -> Iterator[str]:
    names = [mode.name.lower() for mode in entry.power_modes]
    if len(set(names)) < len(names):
        yield "power_modes: a name is there twice"
    for mode in entry.power_modes:
        if mode.name != entry.power_mode:
            continue
        for field in ("clock_mhz", "sms", "emc_mhz"):
            of_mode, of_target = getattr(mode, field), getattr(entry, field)
            if None not in (of_mode, of_target) and abs(of_mode / of_target - 1) > 0.01:
                yield (
                    f"{field} {of_target:g} belongs to power mode {mode.name}, but power_modes says {of_mode:g} for it"
                )


def _peaks_above_hardware(entry: TargetEntry) -> Iterator[str]:
    if entry.sms is None or entry.sm is None:
        return
    rates = fma_rates(entry.sm)
    if not rates:
        if entry.peaks_tflops:
            yield f"sm {entry.sm}: no such architecture is known, its peaks cannot be checked"
        return
    if entry.cuda_cores is not None and entry.cuda_cores != entry.sms * rates["fp32"]:
        yield f"cuda_cores {entry.cuda_cores}: {entry.sms} SMs of sm_{entry.sm} have {entry.sms * rates['fp32']}"
    if entry.clock_mhz is None:
        return
    for precision, peak in entry.peaks_tflops.items():
        rate = rates.get(precision.removesuffix("_fp32_accumulate"))
        if rate is None:
            yield f"peaks_tflops.{precision}: sm_{entry.sm} has no such units"
            continue
        possible = 2e-6 * rate * entry.sms * entry.clock_mhz
        if peak > ALLOWED_EXCESS * possible:
            yield (
                f"peaks_tflops.{precision} {peak:g} is {peak / possible:.1f} x what {entry.sms} SMs at "
                f"{entry.clock_mhz:g} MHz can do ({possible:.3g}); sparse or DLA figures do not belong here"
            )


@lru_cache(maxsize=8)
def _data(name: str) -> dict[str, Any]:
    return read_yaml(Path(str(files("edgekd.targets") / "data" / name)))
