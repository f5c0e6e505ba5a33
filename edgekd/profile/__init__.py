"""What networks cost where they run: latency, layers, energy, memory; measured, imported, compared and judged."""

from edgekd.profile.chrome_trace import chrome_trace
from edgekd.profile.comparison import Comparison, LayerChange, MetricChange, compare_profiles
from edgekd.profile.document import Profile, Span, document_of, profile_from_document, read_profile
from edgekd.profile.gate import GateVerdict, verdict
from edgekd.profile.here import ProfileOptions, profile_here
from edgekd.profile.host import FakeHost, Host, HostState, SystemHost
from edgekd.profile.importing import BoardFiles, profile_from_board
from edgekd.profile.latency import Timing, measure
from edgekd.profile.layers import MeasuredLayer, ModuleTime, by_module
from edgekd.profile.power import Energy, PowerSample, RailEnergy, energy_of
from edgekd.profile.rails import PowerSampler, Rail, find_rails, require_rails
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
    "BoardFiles",
    "Comparison",
    "Energy",
    "FakeHost",
    "GateVerdict",
    "Host",
    "HostState",
    "LayerChange",
    "MeasuredLayer",
    "MetricChange",
    "ModuleTime",
    "ProfileOptions",
    "PowerSample",
    "PowerSampler",
    "Profile",
    "Quantile",
    "Rail",
    "RailEnergy",
    "Span",
    "Summary",
    "SystemHost",
    "Timing",
    "by_module",
    "chrome_trace",
    "compare_profiles",
    "document_of",
    "energy_of",
    "find_rails",
    "measure",
    "median_ranks",
    "percentile",
    "profile_from_board",
    "profile_from_document",
    "profile_here",
    "quantile_ranks",
    "quantiles_of",
    "read_profile",
    "require_rails",
    "summarise",
    "verdict",
]
