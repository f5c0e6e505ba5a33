"""Reads lines of `tegrastats`, of JetPack 5, 6 and 7.

The line grew over the years: no time stamp, then one; clocks as `34%`, `34%@1300`, `34%@[1300]` or `@[0,0,0]` without
a load; rails without a unit, then as `now/average`, then as `now/average/highest`; temperatures as `50C`, then as
`50C/50.5C`. What a line does not hold is None or absent, never zero: JetPack 7 has lines without `GR3D_FREQ`, and
without root there are no rails at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from edgekd.core.errors import DataError
from edgekd.profile.power import PowerSample

_STAMP = re.compile(r"^\d\d-\d\d-\d{4} \d\d:\d\d:\d\d\b")
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?")
_EMC = re.compile(r"\bEMC_FREQ (?:(\d+)%)?(?:@\[?(\d+)\]?)?")
_CPUS = re.compile(r"\bCPU \[([^\]]*)\]")
_CPU_CLOCK = re.compile(r"%@(\d+)")
_TEMPERATURE = re.compile(r"\b([A-Za-z][\w.]*)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"(?:^|\s)([A-Z][A-Z0-9_]*) (-?\d+)(?:mW(?:/-?\d+mW){0,2}|/-?\d+)(?=\s|$)")
_ABSENT_C = -200.0  # what a sensor in a powered-down unit reads (-256)
_DEFAULT_INTERVAL_MS = 1000.0


@dataclass(frozen=True)
class TegrastatsLine:
    """One line.

    Attributes:
        stamp_s: Its time stamp in seconds, whole ones, of the board's clock; None where it has none.
        ram_used_mb: Memory in use by everything on the board, in MiB as printed.
        ram_total_mb: Memory there is.
        gpu_load: Share of time that the GPU was busy, 0..1; None where the line does not tell.
        gpu_mhz: Clock of the GPU (the fastest cluster); None where the line does not tell.
        emc_mhz: Clock of the memory; None where the line does not tell.
        cpu_mhz: Clock of each core that is on.
        temperatures_c: By zone, as the line names it; powered-down sensors are left out.
        rails_mw: Power at this moment by rail; the averages that the line prints too are not read.
    """

    stamp_s: float | None
    ram_used_mb: int
    ram_total_mb: int
    gpu_load: float | None
    gpu_mhz: float | None
    emc_mhz: float | None
    cpu_mhz: tuple[int, ...]
    temperatures_c: Mapping[str, float]
    rails_mw: Mapping[str, float]


def line_from_text(text: str) -> TegrastatsLine:
    """Read one line.

    Raises:
        DataError: It has no `RAM used/totalMB`, which every line of every version has.
    """
    ram = _RAM.search(text)
    if ram is None:
        raise DataError(f"not a line of tegrastats, it has no field RAM used/totalMB: {text.strip()[:80]!r}")
    gpu, emc, cpus = _GPU.search(text), _EMC.search(text), _CPUS.search(text)
    zones = {name: float(value) for name, value in _TEMPERATURE.findall(text)}
    return TegrastatsLine(
        stamp_s=_stamp_s(text.strip()),
        ram_used_mb=int(ram[1]),
        ram_total_mb=int(ram[2]),
        gpu_load=int(gpu[1]) / 100 if gpu and gpu[1] else None,
        gpu_mhz=max(map(float, gpu[2].strip(",").split(","))) if gpu and gpu[2] else None,
        emc_mhz=float(emc[2]) if emc and emc[2] else None,
        cpu_mhz=tuple(map(int, _CPU_CLOCK.findall(cpus[1]))) if cpus else (),
        temperatures_c={name: value for name, value in zones.items() if value > _ABSENT_C},
        rails_mw={name: float(value) for name, value in _RAIL.findall(text)},
    )


def lines_from_text(text: str, origin: str = "tegrastats") -> tuple[TegrastatsLine, ...]:
    """Read a log; empty lines are skipped.

    Args:
        text: What `tegrastats` printed.
        origin: Name of the log, for errors.

    Raises:
        DataError: A line is none of tegrastats, with its number; or there is none.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(line_from_text(line))
        except DataError as error:
            raise DataError(f"{origin}, line {number}: {error}") from error
    if not found:
        raise DataError(f"{origin}: no line of tegrastats is there")
    return tuple(found)


def power_samples(lines: Sequence[TegrastatsLine], interval_ms: float | None = None) -> tuple[PowerSample, ...]:
    """Turn lines into power samples with a time each.

    Stamps are whole seconds, so that lines are spread evenly between the first and the last one.

    Args:
        lines: At least one.
        interval_ms: What `tegrastats --interval` was; by default what the stamps say, else its own default of 1000.

    Returns:
        One sample a line, the first at 0 s.

    Raises:
        DataError: A line has no rails: tegrastats shows them to root only; or other rails than the first one.
    """
    names = set(lines[0].rails_mw)
    for number, line in enumerate(lines, start=1):
        if not line.rails_mw:
            raise DataError(f"line {number} of tegrastats has no power rails (VDD_..., VIN_...): run it with sudo")
        if set(line.rails_mw) != names:
            odd = ", ".join(sorted(names ^ set(line.rails_mw)))
            raise DataError(f"line {number} of tegrastats has other rails than the first: {odd}")
    step_s = (interval_ms or _interval_ms(lines)) / 1e3
    return tuple(
        PowerSample(index * step_s, {name: value / 1e3 for name, value in line.rails_mw.items()})
        for index, line in enumerate(lines)
    )


def _interval_ms(lines: Sequence[TegrastatsLine]) -> float:
    first, last = lines[0].stamp_s, lines[-1].stamp_s
    if first is None or last is None or last <= first:
        return _DEFAULT_INTERVAL_MS
    return 1e3 * (last - first) / (len(lines) - 1)


def _stamp_s(text: str) -> float | None:
    found = _STAMP.match(text)
    if found is None:
        return None
    try:
        return (datetime.strptime(found[0], "%m-%d-%Y %H:%M:%S") - datetime(1970, 1, 1)).total_seconds()
    except ValueError as error:
        raise DataError(f"the time stamp {found[0]!r} is none (MM-DD-YYYY HH:MM:SS): {error}") from error
