"""Budgets as users write them: `p99<8ms`, or several clauses at once, `p50<5ms, memory<64MB, energy<80mJ`.

A clause limits one figure and is judged on its own. Latency is in milliseconds, memory in megabytes of 10^6 bytes,
energy in millijoules an inference. All clauses hold in the power mode of the target (`jetson-orin@15W`); another
mode is another run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from edgekd.core.errors import ConfigError

Quantity = Literal["latency", "memory", "energy"]

LATENCY_METRICS = ("p50", "p90", "p99", "mean")
METRICS: Mapping[str, Quantity] = {
    **dict.fromkeys(LATENCY_METRICS, "latency"),
    "memory": "memory",
    "energy": "energy",
}
UNIT_OF: Mapping[Quantity, str] = {"latency": "ms", "memory": "MB", "energy": "mJ"}
"""The unit that figures of a quantity are judged in."""

_UNITS: Mapping[Quantity, Mapping[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "memory": {"kB": 1e-3, "MB": 1.0, "GB": 1e3, "KiB": 2**10 / 1e6, "MiB": 2**20 / 1e6, "GiB": 2**30 / 1e6},
    "energy": {"uJ": 1e-3, "mJ": 1.0, "J": 1e3},
}
_NOTHING: Mapping[Quantity, str] = {"latency": "time", "memory": "memory", "energy": "energy"}
_CLAUSE = re.compile(r"\s*(\w+)\s*(<=?)\s*([0-9]*\.?[0-9]+(?:[eE][+-]?\d+)?)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True)
class Clause:
    """One clause of a budget: a figure and its upper limit.

    Attributes:
        metric: `p50`, `p90`, `p99` or `mean` of the latency, `memory`, or `energy`.
        limit: What the figure must stay below, in `unit`.
    """

    metric: str
    limit: float

    @property
    def quantity(self) -> Quantity:
        """What it limits; raises `ConfigError` for a metric that no budget knows."""
        if self.metric not in METRICS:
            raise ConfigError(f"{self.metric!r} is none of {', '.join(METRICS)}")
        return METRICS[self.metric]

    @property
    def unit(self) -> str:
        """`ms`, `MB` or `mJ`."""
        return UNIT_OF[self.quantity]

    def __str__(self) -> str:
        return f"{self.metric}<{self.limit:g}{self.unit}"


@dataclass(frozen=True)
class ClauseVerdict:
    """What became of one clause.

    Attributes:
        clause: The clause.
        value: The figure held against it, in its unit; NaN counts as missed.
    """

    clause: Clause
    value: float

    @property
    def is_kept(self) -> bool:
        """The figure is below the limit."""
        return self.value < self.clause.limit

    def __str__(self) -> str:
        clause = self.clause
        return f"{clause.metric} is {self.value:.4g} {clause.unit}, the budget is {clause.limit:g} {clause.unit}"


@dataclass(frozen=True)
class Budget:
    """Clauses that must all hold.

    Attributes:
        clauses: In the order they were written.
    """

    clauses: tuple[Clause, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.clauses))

    @property
    def limits(self) -> tuple[Clause, ...]:
        """The clauses on latency, in milliseconds: what a timed or predicted engine is held against."""
        return tuple(clause for clause in self.clauses if clause.quantity == "latency")

    @property
    def resources(self) -> tuple[Clause, ...]:
        """The clauses on memory and energy."""
        return tuple(clause for clause in self.clauses if clause.quantity != "latency")

    def only(self, metrics: Collection[str]) -> Budget:
        """Return the clauses on these metrics."""
        return Budget(tuple(clause for clause in self.clauses if clause.metric in metrics))

    def require_known(self, metrics: Collection[str], where: str) -> None:
        """Refuse, before anything runs, a clause that nobody will be able to judge.

        Args:
            metrics: What will be known.
            where: On what, in words (`"cpu"`).

        Raises:
            ConfigError: Names each clause on something else.
        """
        unknown = [f"{clause.metric} ({clause})" for clause in self.clauses if clause.metric not in metrics]
        if unknown:
            raise ConfigError(
                f"budget {str(self)!r}: {', '.join(unknown)} cannot be known on {where}; a budget there limits "
                f"{', '.join(metrics)}. Leave that clause out, or measure it on the device"
            )

    def judge(self, figures: Mapping[str, float]) -> tuple[ClauseVerdict, ...]:
        """Judge each clause on its own.

        Args:
            figures: Figure by metric, in the unit of its quantity (`{"p50": 1.2, "p99": 1.9, "memory": 48.0}`).

        Returns:
            One verdict a clause, in their order.

        Raises:
            ConfigError: A figure that the budget limits is not in `figures`.
        """
        for clause in self.clauses:
            if clause.metric not in figures:
                raise ConfigError(f"the budget limits {clause.metric}, but only {', '.join(figures)} are known")
        return tuple(ClauseVerdict(clause, figures[clause.metric]) for clause in self.clauses)

    def misses(self, figures: Mapping[str, float]) -> tuple[str, ...]:
        """List the clauses that do not hold, in words; arguments and errors as for `judge`."""
        return tuple(str(verdict) for verdict in self.judge(figures) if not verdict.is_kept)


def parse_budget(text: str) -> Budget:
    """Read a budget such as `"p99<8ms"` or `"p50<500us, memory<64MB, energy<80mJ"`.

    Args:
        text: Clauses `metric<number unit` joined by commas. Metrics p50, p90, p99, mean in us, ms, s; memory in kB, MB,
            GB, KiB, MiB, GiB; energy in uJ, mJ, J.

    Returns:
        The budget, limits in milliseconds, megabytes and millijoules.

    Raises:
        ConfigError: The text is not a budget; every wrong clause is named.
    """
    clauses: list[Clause] = []
    problems: list[str] = []
    for part in text.split(","):
        try:
            clause = _clause(part)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if clause.metric in {other.metric for other in clauses}:
            problems.append(f"{clause.metric} is limited twice")
        clauses.append(clause)
    if problems:
        raise ConfigError(f"budget {text!r}: " + "; ".join(problems))
    return Budget(tuple(clauses))


def _clause(text: str) -> Clause:
    match = _CLAUSE.fullmatch(text)
    if match is None:
        if "@" in text:
            raise ConfigError(f"{text.strip()!r} names a power mode: it belongs to the target, as in --target NAME@15W")
        raise ConfigError(f"{text.strip()!r} is not of the form p99<8ms")
    metric, _, number, unit = match.groups()
    if metric not in METRICS:
        raise ConfigError(f"{metric!r} is none of {', '.join(METRICS)}")
    units = _UNITS[METRICS[metric]]
    if unit not in units:
        raise ConfigError(f"unit {unit!r} is none of {', '.join(units)}")
    limit = float(number) * units[unit]
    if limit <= 0:
        raise ConfigError(f"{text.strip()!r} leaves no {_NOTHING[METRICS[metric]]} at all")
    if not math.isfinite(limit):
        raise ConfigError(f"{text.strip()!r} is no limit")
    return Clause(metric, limit)
