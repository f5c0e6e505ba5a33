"""Latency of open engines: measuring it, its statistics, and the gate that compares it with a budget."""

from edgekd.profile.gate import GateVerdict, verdict
from edgekd.profile.host import FakeHost, Host, HostState, SystemHost
from edgekd.profile.latency import Timing, measure, time_runs
from edgekd.profile.statistics import (
    Quantile,
    Summary,
    median_ranks,
    percentile,
    quantile_ranks,
    quantiles_of,
    summarise,
)

__all__ = [
    "FakeHost",
    "GateVerdict",
    "Host",
    "HostState",
    "Quantile",
    "Summary",
    "SystemHost",
    "Timing",
    "measure",
    "median_ranks",
    "percentile",
    "quantile_ranks",
    "quantiles_of",
    "summarise",
    "time_runs",
    "verdict",
]
