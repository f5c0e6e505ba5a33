"""The machine that measures: its clock, and the state that decides whether a figure can be trusted."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LOOK_S = 0.2
_GPU_DEVFREQ = ("*.gpu", "*.gv11b", "*.gp10b", "gpu-gpc-*")  # integrated GPUs of Orin, Xavier, TX2 and Thor


@dataclass(frozen=True)
class HostState:
    """State of the machine at one moment.

    Attributes:
        cpu_model: Name of the CPU.
        logical_cpus: CPUs this process may use.
        governor: Frequency governor of the first CPU; `"unknown"` where the kernel does not tell.
        clock_mhz: Mean current clock of the CPUs; None where the kernel does not tell.
        load_1min: Load average of the last minute, this process among the rest.
        temperature_c: Hottest thermal zone; None where the kernel does not tell.
        throttle_events: How often the CPUs were throttled since boot; None where the kernel does not count it.
        gpu_clock_mhz: Current clock of an integrated GPU; None where there is none.
        resident_mb: Memory of this process in RAM, in 10^6 bytes; None where the kernel does not tell.
        peak_resident_mb: The most it has been.
        busy_cpus: CPUs, of those it may use, that worked while this process slept for a moment; None where the kernel
            does not tell.
    """

    cpu_model: str
    logical_cpus: int
    governor: str
    clock_mhz: float | None
    load_1min: float
    temperature_c: float | None = None
    throttle_events: int | None = None
    gpu_clock_mhz: float | None = None
    resident_mb: float | None = None
    peak_resident_mb: float | None = None
    busy_cpus: float | None = None


class Host(Protocol):
    """A clock and the state of the machine."""

    def now_ns(self) -> int:
        """Return a monotonic time in nanoseconds."""
        ...

    def state(self) -> HostState:
        """Read the state of the machine."""
        ...


class SystemHost:
    """This machine.

    Args:
        root: Where `/proc` and `/sys` are found.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def now_ns(self) -> int:
        """Return `time.perf_counter_ns()`."""
        return time.perf_counter_ns()

    def state(self) -> HostState:
        """Read clocks, governor, load, temperature, throttling and memory from `/proc` and `/sys`."""
        return HostState(
            cpu_model=self._cpu_model(),
            logical_cpus=len(os.sched_getaffinity(0)),
            governor=self._governor(),
            clock_mhz=self._clock_mhz(),
            load_1min=round(os.getloadavg()[0], 2),
            temperature_c=self._temperature_c(),
            throttle_events=self._throttle_events(),
            gpu_clock_mhz=self._gpu_clock_mhz(),
            resident_mb=self._process_mb("VmRSS"),
            peak_resident_mb=self._process_mb("VmHWM"),
            busy_cpus=self._busy_cpus(),
        )

    def _cpu_model(self) -> str:
        found = [value for key in ("model name", "Model", "Hardware") for value in self._cpuinfo(key)]
        return found[0] if found else platform.processor() or platform.machine() or "unknown"

    def _clock_mhz(self) -> float | None:
        cpus = self._root / "sys/devices/system/cpu"
        kilohertz = [float(path.read_text()) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
        clocks = [value / 1e3 for value in kilohertz] or [float(value) for value in self._cpuinfo("cpu MHz")]
        return round(sum(clocks) / len(clocks), 1) if clocks else None

    def _governor(self) -> str:
        path = self._root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
        return path.read_text(encoding="utf-8").strip() if path.is_file() else "unknown"

    def _temperature_c(self) -> float | None:
        zones = (self._root / "sys/class/thermal").glob("thermal_zone*/temp")
        degrees = [value / 1e3 for path in zones if (value := _number(path)) is not None]
        return round(max(degrees), 1) if degrees else None

    def _throttle_events(self) -> int | None:
        cpus = self._root / "sys/devices/system/cpu"
        counts = [_number(path) for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
        known = [int(count) for count in counts if count is not None]
        return sum(known) if known else None

    def _gpu_clock_mhz(self) -> float | None:
        folders = [path for name in _GPU_DEVFREQ for path in (self._root / "sys/class/devfreq").glob(name)]
        clocks = [value / 1e6 for path in folders if (value := _number(path / "cur_freq")) is not None]
        return round(max(clocks), 1) if clocks else None

    def _busy_cpus(self) -> float | None:
        before = self._ticks()
        time.sleep(_LOOK_S)
        pairs = zip(self._ticks(), before, strict=True)
        spent = [(idle - was_idle, total - was) for (idle, total), (was_idle, was) in pairs]
        shares = [1 - idle / total for idle, total in spent if total > 0]
        return round(sum(shares), 2) if shares else None

    def _ticks(self) -> list[tuple[int, int]]:
        """Return idle and all ticks of each CPU that this process may use."""
        path = self._root / "proc/stat"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        words = [line.split() for line in lines if line.startswith("cpu")]
        counts = {name: [int(part) for part in parts] for name, *parts in words}
        usable = [counts[name] for cpu in sorted(os.sched_getaffinity(0)) if (name := f"cpu{cpu}") in counts]
        return [(count[3] + count[4], sum(count[:8])) for count in usable]

    def _process_mb(self, key: str) -> float | None:
        path = self._root / "proc/self/status"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kibibytes = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
        return round(int(kibibytes[0]) * 1024 / 1e6, 1) if kibibytes else None

    def _cpuinfo(self, key: str) -> list[str]:
        path = self._root / "proc/cpuinfo"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        pairs = (line.partition(":") for line in lines)
        return [value.strip() for name, _, value in pairs if name.strip() == key and value.strip()]


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # some zones refuse to be read while their unit is powered down
        return None


class FakeHost:
    """A machine whose time moves only when told to, for exact tests.

    Args:
        next_state: Gives the state at each reading; a quiet four-core machine by default.
    """

    def __init__(self, next_state: Callable[[], HostState] | None = None) -> None:
        self._time_ns = 0
        self._next_state = next_state or (lambda: HostState("fake", 4, "performance", 2000.0, 0.0))

    def now_ns(self) -> int:
        """Return the time it was moved to."""
        return self._time_ns

    def state(self) -> HostState:
        """Return the next state."""
        return self._next_state()

    def advance_ms(self, milliseconds: float) -> None:
        """Move time forward."""
        self._time_ns += round(milliseconds * 1e6)
