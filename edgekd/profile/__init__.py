"""Latency of open engines: measuring it, its statistics, and the gate that compares it with a budget."""

from edgekd.profile.gate import GateVerdict, verdict
from edgekd.profile.host import FakeHost, Host, HostState, SystemHost
from edgekd.profile.latency import measure
from edgekd.profile.statistics import Summary, median_ranks, percentile, summarise

__all__ = [
    "FakeHost",
    "GateVerdict",
    "Host",
    "HostState",
    "Summary",
    "SystemHost",
    "measure",
    "median_ranks",
    "percentile",
    "summarise",
    "verdict",
]
