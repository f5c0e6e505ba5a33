"""Energy of an inference from samples of power rails, on any board and from any source of samples.

Power is integrated by the trapezoid rule between time stamps; nothing is extrapolated. What the board draws when idle
is reported beside it and subtracted in a figure of its own, never silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.core.errors import DataError

TOTAL = "total"
_INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
"""Rails that all others of a board hang on: of Thor; of Orin NX, Orin Nano and Xavier NX; of Nano."""
_PARTS_OF_OTHERS = ("VDDQ_VDD2_1V8AO",)
"""Rails behind another one: on AGX Orin the memory hangs on VIN_SYS_5V0."""


@dataclass(frozen=True)
class PowerSample:
    """Power at one moment.

    Attributes:
        time_s: When, in seconds of any clock that does not jump.
        rails_w: Watts by rail.
    """

    time_s: float
    rails_w: Mapping[str, float]


@dataclass(frozen=True)
class RailEnergy:
    """What one rail gave for an inference.

    Attributes:
        rail: Its name, or `"total"`.
        mean_w: Mean power over the window.
        idle_w: Mean power of the idle board; None where that was not measured.
        gross_mj: Energy of an inference, the idle board included.
        net_mj: Energy of an inference above the idle board; None where that was not measured.
    """

    rail: str
    mean_w: float
    idle_w: float | None
    gross_mj: float
    net_mj: float | None


@dataclass(frozen=True)
class Energy:
    """Energy of an inference.

    Attributes:
        rails: Every rail.
        total: All together.
        total_is: What `total` is made of, in words.
        runs: Inferences in the window.
        window_s: Its length.
        samples: Power samples in it.
    """

    rails: tuple[RailEnergy, ...]
    total: RailEnergy
    total_is: str
    runs: int
    window_s: float
    samples: int


def energy_of(
    samples: Sequence[PowerSample], start_s: float, end_s: float, *, runs: int, idle: Sequence[PowerSample] = ()
) -> Energy:
    """Compute the energy of an inference.

    Args:
        samples: Power while it ran, ascending in time, covering the window.
        start_s: Start of the window, in the samples' clock.
        end_s: Its end.
        runs: Inferences in it.
        idle: Power of the idle board; at least two samples, or none where it was not measured.

    Returns:
        Energy by rail and in total.

    Raises:
        DataError: The window is empty or not covered by samples, the clock goes back, or idle rails differ.
    """
    if runs < 1:
        raise DataError(f"energy of {runs} inferences is not defined")
    window_s = end_s - start_s
    series, idle_series = _with_total(samples), _with_total(idle) if idle else {}
    if idle and set(idle_series) != set(series):
        odd = ", ".join(sorted(set(series) ^ set(idle_series)))
        raise DataError(f"rails of the idle board are others than those of the run: {odd}")
    times = [sample.time_s for sample in samples]
    idle_times = [sample.time_s for sample in idle]
    found = {}
    for rail, watts in series.items():
        mean_w = energy_j(times, watts, start_s, end_s) / window_s
        idle_w = None
        if idle:
            span_s = idle_times[-1] - idle_times[0]
            idle_w = energy_j(idle_times, idle_series[rail], idle_times[0], idle_times[-1]) / span_s
        net = None if idle_w is None else (mean_w - idle_w) * window_s / runs * 1e3
        found[rail] = RailEnergy(rail, mean_w, idle_w, mean_w * window_s / runs * 1e3, net)
    total = found.pop(TOTAL)
    inside = sum(start_s <= time <= end_s for time in times)
    return Energy(tuple(found.values()), total, " + ".join(total_rails(list(found))), runs, window_s, inside)


def energy_j(times_s: Sequence[float], watts: Sequence[float], start_s: float, end_s: float) -> float:
    """Integrate power by the trapezoid rule, straight lines between samples, the window's ends included.

    Args:
        times_s: When, strictly ascending.
        watts: Power then.
        start_s: Start of the window.
        end_s: Its end.

    Returns:
        Joules.

    Raises:
        DataError: Fewer than two samples, a clock that stands or goes back, an empty window or one not covered.
    """
    times, power = np.asarray(times_s, dtype=np.float64), np.asarray(watts, dtype=np.float64)
    if len(times) < 2 or not (np.diff(times) > 0).all():
        raise DataError(f"{len(times)} power samples with time stamps that ascend strictly are needed: at least two")
    if not start_s < end_s:
        raise DataError(f"the window {start_s:g}..{end_s:g} s is empty")
    if start_s < times[0] or end_s > times[-1]:
        raise DataError(
            f"power was sampled from {times[0]:g} to {times[-1]:g} s, which does not cover the run from {start_s:g} to "
            f"{end_s:g} s"
        )
    inside = times[(times > start_s) & (times < end_s)]
    grid = np.concatenate([[start_s], inside, [end_s]])
    values = np.interp(grid, times, power)
    return float((np.diff(grid) * (values[1:] + values[:-1]) / 2).sum())


def total_rails(names: Sequence[str]) -> tuple[str, ...]:
    """Choose the rails whose sum is the board's power: the one at its input where there is one, else all of them.

    Args:
        names: Rails of a board.

    Returns:
        Those to add, in order, without rails that hang on another one.
    """
    for rail in _INPUT_RAILS:
        if rail in names:
            return (rail,)
    return tuple(name for name in names if name not in _PARTS_OF_OTHERS)


def _with_total(samples: Sequence[PowerSample]) -> dict[str, list[float]]:
    names = list(samples[0].rails_w) if samples else []
    if not names:
        raise DataError("there are no power samples, or none of them has a rail")
    series = {name: [sample.rails_w[name] for sample in samples] for name in names}
    chosen = total_rails(names)
    series[TOTAL] = [sum(sample.rails_w[name] for name in chosen) for sample in samples]
    return series
