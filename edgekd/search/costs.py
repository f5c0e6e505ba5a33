"""What a student costs on its target before it knows anything: time, memory, size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.core.artifacts import LatencyReport, Precision, to_json
from edgekd.core.budget import Budget
from edgekd.latency import LayerGraph

_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class Cost:
    """What a student costs.

    Attributes:
        name: Its short name.
        macs: Multiply-accumulates of one inference.
        params: Weights of its convolutions and products.
        memory_bytes: Weights and the largest activations that are needed at once; what the runtime adds is not in it.
        latency: How long it takes, predicted or measured.
        is_measured_later: Whether a prediction only decides what is trained, and a measurement what is returned.
    """

    name: str
    macs: int
    params: int
    memory_bytes: int
    latency: LatencyReport
    is_measured_later: bool = False

    @property
    def figures(self) -> dict[str, float]:
        """What a budget is held against, by metric.

        Milliseconds of a statistic, and memory in MB of 10^6 bytes. A measurement counts as it is, a prediction by its
        upper end; but by its expected value where the student will be measured before it is returned. Energy of an
        inference in mJ, the idle board's included, where it was measured.
        """
        known = {"energy": self.latency.conditions["energy_mj"]} if "energy_mj" in self.latency.conditions else {}
        return {**self._milliseconds(), "memory": self.memory_bytes / 1e6, **known}

    def _milliseconds(self) -> dict[str, float]:
        latency = self.latency
        if latency.kind == "measured" or not self.is_measured_later:
            return latency.judged_ms
        p99_ms = float(latency.conditions.get("p99_expected_ms", latency.p99_ms))
        return {"p50": latency.p50_ms, "mean": latency.p50_ms, "p90": p99_ms, "p99": p99_ms}

    @property
    def basis(self) -> str:
        """What the milliseconds of `figures` are, in words."""
        if self.latency.kind == "measured":
            return "measured"
        return "expected, predicted, not measured" if self.is_measured_later else "upper end, predicted, not measured"

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "macs": self.macs,
            "params": self.params,
            "memory_bytes": self.memory_bytes,
            "latency": to_json(self.latency),
            "figures": self.figures,
            "basis": self.basis,
        }


def memory_bytes(graph: LayerGraph, precision: Precision) -> int:
    """Return the bytes of a network's weights and of the largest input and output of a kernel together.

    Args:
        graph: Its kernels.
        precision: What both are held in.
    """
    columns = graph.columns
    largest = int((columns.in_elems + columns.out_elems).max()) if len(columns) else 0
    return _BYTES[precision] * (int(columns.weight_elems.sum()) + largest)


def excesses(cost: Cost, budget: Budget | None) -> tuple[float, ...]:
    """Return by how much each clause is missed, as a share of its limit; above 0 exactly where it is missed.

    Args:
        cost: What is judged.
        budget: The clauses; none gives none.

    Raises:
        ConfigError: A figure that is limited is not known.
    """
    if budget is None:
        return ()
    over = []
    for verdict in budget.judge(cost.figures):
        share = verdict.value / verdict.clause.limit - 1.0
        over.append(min(share, 0.0) if verdict.is_kept else max(share, 1e-9))
    return tuple(over)
