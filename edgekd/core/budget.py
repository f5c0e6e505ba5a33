"""Latency budgets as users write them: `p99<8ms`, several joined by commas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgekd.core.errors import ConfigError

_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_METRICS = ("p50", "p90", "p99", "mean")
_CLAUSE = re.compile(r"\s*(\w+)\s*(<=?)\s*([0-9]*\.?[0-9]+(?:[eE][+-]?\d+)?)\s*([a-z]+)\s*")


@dataclass(frozen=True)
class Limit:
    """One clause of a budget: a latency statistic and its upper limit in milliseconds."""

    metric: str
    limit_ms: float

    def __str__(self) -> str:
        return f"{self.metric}<{self.limit_ms:g}ms"


@dataclass(frozen=True)
class Budget:
    """Limits that must all hold."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.limits))

    def misses(self, latency_ms: Mapping[str, float]) -> tuple[str, ...]:
        """List the limits that do not hold, in words.

        Args:
            latency_ms: Milliseconds by statistic (`{"p50": 1.2, "p99": 1.9}`).

        Returns:
            One sentence for each limit missed; empty when the budget is kept.

        Raises:
            ConfigError: A statistic that the budget limits is not in `latency_ms`.
        """
        missed = []
        for limit in self.limits:
            if limit.metric not in latency_ms:
                raise ConfigError(f"the budget limits {limit.metric}, but only {', '.join(latency_ms)} are known")
            value = latency_ms[limit.metric]
            if not value < limit.limit_ms:
                missed.append(f"{limit.metric} is {value:.4g} ms, the budget is {limit.limit_ms:g} ms")
        return tuple(missed)


def parse_budget(text: str) -> Budget:
    """Read a budget such as `"p99<8ms"` or `"p50<500us, p99<1ms"`.

    Args:
        text: Clauses `statistic<number unit` joined by commas; statistics p50, p90, p99, mean; units us, ms, s.

    Returns:
        The budget, limits in milliseconds.

    Raises:
        ConfigError: The text is not a budget; every wrong clause is named.
    """
    limits, problems, seen = [], [], set()
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            problems.append(f"{clause.strip()!r} is not of the form p99<8ms")
            continue
        metric, _, number, unit = match.groups()
        if metric not in _METRICS:
            problems.append(f"{metric!r} is none of {', '.join(_METRICS)}")
        elif unit not in _UNITS_MS:
            problems.append(f"unit {unit!r} is none of {', '.join(_UNITS_MS)}")
        elif float(number) <= 0:
            problems.append(f"{clause.strip()!r} leaves no time at all")
        elif metric in seen:
            problems.append(f"{metric} is limited twice")
        else:
            seen.add(metric)
            limits.append(Limit(metric, float(number) * _UNITS_MS[unit]))
    if problems:
        raise ConfigError(f"budget {text!r}: " + "; ".join(problems))
    return Budget(tuple(limits))
