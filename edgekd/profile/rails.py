"""Live power of a Jetson: the rails of its INA chips as the kernel's hwmon shows them. NVML is never asked on Tegra.

An INA3221 has three channels `in1..in3` (millivolts) with `curr1..curr3` (milliamperes) and labels; `in4` and above are
shunt voltages and are not read. An INA238 (the input of Thor) has `power1_input` in microwatts.

Reference: Linux kernel, Documentation/hwmon/ina3221.rst and ina238.rst.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edgekd.core.errors import PreconditionError
from edgekd.profile.host import Host, SystemHost
from edgekd.profile.power import PowerSample

_CHANNELS = (1, 2, 3)
_DEFAULT_LABEL = {"ina238": "VIN"}


@dataclass(frozen=True)
class Rail:
    """A power rail.

    Attributes:
        name: Its label.
        read_w: Reads watts.
    """

    name: str
    read_w: Callable[[], float]


def find_rails(root: Path = Path("/")) -> tuple[Rail, ...]:
    """Find the power rails of this board.

    Args:
        root: Where `/sys` is found.

    Returns:
        The rails, by name; empty on a machine without INA chips.
    """
    found = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        chip = _text(folder / "name")
        if not chip.startswith("ina"):
            continue
        for channel in _CHANNELS:
            name = _text(folder / f"in{channel}_label") or _DEFAULT_LABEL.get(chip, "")
            if name and name != "NC":
                found += _rail(folder, channel, name)
    return tuple(sorted(found, key=lambda rail: rail.name))


def require_rails(root: Path = Path("/")) -> tuple[Rail, ...]:
    """Return the rails, or raise `PreconditionError` where there are none."""
    rails = find_rails(root)
    if not rails:
        raise PreconditionError(
            "this machine has no INA power rails under /sys/class/hwmon, so energy cannot be measured here: run on a "
            "Jetson, or import a log of tegrastats (edgekd profile import --tegrastats)"
        )
    return rails


class PowerSampler:
    """Samples rails in a thread of its own while the block runs; a sensor that fails raises at the block's end.

    Without rails it does nothing.

    Args:
        rails: What to read.
        interval_s: Time between samples.
        host: Clock of the time stamps.
    """

    def __init__(self, rails: tuple[Rail, ...], *, interval_s: float = 0.02, host: Host | None = None) -> None:
        self._rails = rails
        self._interval_s = interval_s
        self._host = host or SystemHost()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgekd-power", daemon=True)
        self._samples: list[PowerSample] = []
        self._problem: PreconditionError | None = None

    @property
    def samples(self) -> tuple[PowerSample, ...]:
        """What was sampled so far."""
        return tuple(self._samples)

    def take(self) -> None:
        """Take one sample now."""
        self._samples.append(PowerSample(self._host.now_ns() / 1e9, {rail.name: rail.read_w() for rail in self._rails}))

    def __enter__(self) -> PowerSampler:
        if self._rails:
            self.take()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._rails:
            return
        self._stop.set()
        self._thread.join()
        if self._problem is not None and error is None:
            raise self._problem
        self.take()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._interval_s):
                self.take()
        except PreconditionError as error:  # raised again where the block ends
            self._problem = error


def _rail(folder: Path, channel: int, name: str) -> list[Rail]:
    power = folder / f"power{channel}_input"
    volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
    if power.is_file():
        return [Rail(name, lambda: _number(power) / 1e6)]
    if volts.is_file() and amperes.is_file():
        return [Rail(name, lambda: _number(volts) * _number(amperes) / 1e6)]
    return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(path: Path) -> float:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PreconditionError(f"the power sensor {path} cannot be read: {error}") from error
