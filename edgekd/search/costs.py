"""What a student costs on its target before it knows anything: time, memory, size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.core.artifacts import LatencyReport, Precision, to_json
from edgekd.core.budget import Budget
from edgekd.latency import LayerGraph

_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Cost:
    """What a student costs.

    Attributes:
        name: Its short name.
        macs: Multiply-accumulates of one inference.
        params: Weights of its convolutions and products.
        memory_bytes: Weights and the largest activations that are needed at once; what the runtime adds is not in it.
        latency: How long it takes, predicted or measured.
    """

    name: str
    macs: int
    params: int
    memory_bytes: int
    latency: LatencyReport

    @property
    def figures(self) -> dict[str, float]:
        """What a budget is held against, by metric.

        Milliseconds of a statistic, as measured or the upper end as predicted, and memory in MB of 10^6 bytes.
        """
        return {**self.latency.judged_ms, "memory": self.memory_bytes / 1e6}

    def document(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "macs": self.macs,
            "params": self.params,
            "memory_bytes": self.memory_bytes,
            "latency": to_json(self.latency),
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
