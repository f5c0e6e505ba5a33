"""The machine that measures: its clock, and the state that decides whether a figure can be trusted."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class HostState:
    """State of the machine at one moment.

    Attributes:
        cpu_model: Name of the CPU.
        logical_cpus: CPUs this process may use.
        governor: Frequency governor of the first CPU; `"unknown"` where the kernel does not tell.
        clock_mhz: Mean current clock of the CPUs; None where the kernel does not tell.
        load_1min: Load average of the last minute.
    """

    cpu_model: str
    logical_cpus: int
    governor: str
    clock_mhz: float | None
    load_1min: float


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
        """Read `/proc/cpuinfo`, the governor, the clock and the load."""
        return HostState(
            cpu_model=self._cpu_model(),
            logical_cpus=len(os.sched_getaffinity(0)),
            governor=self._governor(),
            clock_mhz=self._clock_mhz(),
            load_1min=round(os.getloadavg()[0], 2),
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

    def _cpuinfo(self, key: str) -> list[str]:
        path = self._root / "proc/cpuinfo"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        pairs = (line.partition(":") for line in lines)
        return [value.strip() for name, _, value in pairs if name.strip() == key and value.strip()]


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
