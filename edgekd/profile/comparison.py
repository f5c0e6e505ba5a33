"""Which of two profiles is faster, and by how much for sure.

Ratios of percentiles get an interval by the bootstrap over blocks of neighbouring runs, since latencies that follow
each other resemble each other; where samples were not kept, the intervals of both sides bound the ratio instead.

Reference: Kunsch (1989), "The jackknife and the bootstrap for general stationary observations"; the block length is
that of n^(1/3) times 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.core.artifacts import LatencyReport
from edgekd.core.errors import DataError
from edgekd.profile.document import Profile
from edgekd.profile.layers import MeasuredLayer, by_module
from edgekd.profile.statistics import FEWEST_FOR_INTERVAL, SHARES, quantile_ranks

_DRAWS = 1000
_TAIL_PERCENT = 2.5
_SAME_CONDITIONS = ("batch", "threads", "cpu_model", "provider", "version")
_BY_NAME = 0.5

Floats = NDArray[np.float64]
Verdict = Literal["slower", "unclear", "kept"]


@dataclass(frozen=True)
class MetricChange:
    """One figure of both profiles.

    Attributes:
        metric: `p50_ms`, `p99_ms`, `mean_ms`, `energy_mj`, ...
        before: Of the first.
        after: Of the second.
        ratio: Second over first.
        low: Lower end of the interval of the ratio; None where none is known.
        high: Upper end.
    """

    metric: str
    before: float
    after: float
    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def is_sure(self) -> bool:
        """The interval leaves out that nothing changed."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


@dataclass(frozen=True)
class LayerChange:
    """One layer, or one module, of both profiles.

    Attributes:
        name: Its name.
        before_ms: Time in the first; None where it has no such layer.
        after_ms: Time in the second; None where it has no such layer.
        modules: Modules that the layer belongs to.
    """

    name: str
    before_ms: float | None
    after_ms: float | None
    modules: tuple[str, ...] = ()

    @property
    def change_ms(self) -> float:
        """How much longer it takes in the second; a missing layer takes no time."""
        return (self.after_ms or 0.0) - (self.before_ms or 0.0)


@dataclass(frozen=True)
class Comparison:
    """Two profiles held against each other.

    Attributes:
        metrics: Every figure that both have.
        layers: Every layer, the largest change first; empty where layers were not timed on both sides.
        layers_are: Whether `layers` are `"layers"` of the same name or `"modules"`.
        interval: What the intervals of the ratios are, in words.
        verdict: `"slower"` when the figure judged grew by more than was allowed, and surely grew; `"unclear"` when it
            grew by more but its interval does not leave out that nothing changed.
        judged: The figure judged.
        allowed: How much it may grow, as a share.
        warnings: What makes the comparison doubtful.
    """

    metrics: tuple[MetricChange, ...]
    layers: tuple[LayerChange, ...]
    layers_are: Literal["layers", "modules"]
    interval: str
    verdict: Verdict
    judged: str
    allowed: float
    warnings: tuple[str, ...]


def compare_profiles(
    before: Profile, after: Profile, *, metric: str = "p50_ms", allowed: float = 0.05, seed: int = 0
) -> Comparison:
    """Compare two profiles.

    Args:
        before: The first.
        after: The second.
        metric: The figure judged.
        allowed: How much slower the second may be, as a share.
        seed: Seed of the bootstrap.

    Returns:
        The comparison.

    Raises:
        DataError: A profile is a prediction, or the figure judged is not in both.
    """
    for profile in (before, after):
        if profile.report.kind != "measured":
            raise DataError(
                f"{profile.model} on {profile.report.target} was predicted, not measured: nothing to compare"
            )
    metrics = (*_latency_changes(before, after, seed), *_other_changes(before, after))
    judged = next((one for one in metrics if one.metric == metric), None)
    if judged is None:
        known = ", ".join(one.metric for one in metrics)
        raise DataError(f"{metric!r} is not in both profiles; they have {known}")
    has_samples = _enough(before) and _enough(after)
    layers, kind = _layer_changes(before.layers, after.layers)
    return Comparison(
        metrics,
        layers,
        kind,
        "95 %, bootstrap over blocks of runs"
        if has_samples
        else "from the interval of each side, no samples were kept",
        _verdict(judged, allowed),
        metric,
        allowed,
        tuple(_differences(before.report, after.report)),
    )


def _verdict(change: MetricChange, allowed: float) -> Verdict:
    if not change.ratio > 1 + allowed:
        return "kept"
    has_no_interval = not change.metric.endswith("_ms")
    return "slower" if change.is_sure or has_no_interval else "unclear"


def _enough(profile: Profile) -> bool:
    return len(profile.samples_ms) >= FEWEST_FOR_INTERVAL


def _latency_changes(before: Profile, after: Profile, seed: int) -> list[MetricChange]:
    found = []
    for name in ("p50_ms", "p90_ms", "p99_ms", "p999_ms", "mean_ms"):
        first, second = _figure(before.report, name), _figure(after.report, name)
        if first is not None and second is not None:
            low, high = _interval(before, after, name, seed)
            found.append(MetricChange(name, first, second, second / first, low, high))
    return found


def _interval(before: Profile, after: Profile, name: str, seed: int) -> tuple[float | None, float | None]:
    share = SHARES.get(name.removesuffix("_ms"))
    if _enough(before) and _enough(after):
        if share is not None and not all(quantile_ranks(len(one.samples_ms), share) for one in (before, after)):
            return None, None
        ratio = bootstrap_ratio(before.samples_ms, after.samples_ms, _statistic(share), seed=seed)
        return ratio[0], ratio[1]
    if name == "p50_ms":
        return before_after(before.report, after.report)
    return None, None


def before_after(before: LatencyReport, after: LatencyReport) -> tuple[float, float]:
    """Bound the ratio of two medians by their intervals."""
    return after.low_ms / before.high_ms, after.high_ms / before.low_ms


def _statistic(share: float | None) -> Callable[[Floats], Floats]:
    if share is None:
        return lambda draws: draws.mean(axis=1)
    return lambda draws: np.quantile(draws, share, axis=1, method="inverted_cdf")


def bootstrap_ratio(
    before: Sequence[float], after: Sequence[float], statistic: Callable[[Floats], Floats], *, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of a statistic, second over first.

    Args:
        before: Samples in the order they were taken.
        after: Samples of the other, in order.
        statistic: Draws `[D, n]` to a figure each `[D]`.
        seed: Seed of the draws.

    Returns:
        Its 2.5th and 97.5th percentile over 1000 draws of circular blocks.
    """
    rng = np.random.default_rng(seed)
    ratios = statistic(_draws(after, rng)) / statistic(_draws(before, rng))
    low, high = np.percentile(ratios, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return float(low), float(high)


def _draws(samples: Sequence[float], rng: np.random.Generator) -> Floats:
    values = np.asarray(samples, dtype=np.float64)
    count = len(values)
    block = max(round(2 * count ** (1 / 3)), 1)
    starts = rng.integers(0, count, (_DRAWS, -(-count // block)))
    places = (starts[:, :, None] + np.arange(block)).reshape(_DRAWS, -1)[:, :count] % count
    drawn: Floats = values[places]
    return drawn


def _figure(report: LatencyReport, name: str) -> float | None:
    if name in ("p50_ms", "p99_ms"):
        return float(getattr(report, name))
    value = report.conditions.get(name)
    return float(value) if isinstance(value, int | float) else None


def _other_changes(before: Profile, after: Profile) -> list[MetricChange]:
    found = []
    if before.energy is not None and after.energy is not None:
        pairs = [("energy_mj", before.energy.total.gross_mj, after.energy.total.gross_mj)]
        net = before.energy.total.net_mj, after.energy.total.net_mj
        if net[0] is not None and net[1] is not None:
            pairs.append(("energy_net_mj", net[0], net[1]))
        found += [MetricChange(name, first, second, second / first) for name, first, second in pairs if first > 0]
    for name in before.memory_mb.keys() & after.memory_mb.keys():
        first, second = before.memory_mb[name], after.memory_mb[name]
        if first > 0:
            found.append(MetricChange(f"memory_{name}_mb", first, second, second / first))
    return sorted(found, key=lambda one: one.metric)


def _layer_changes(
    before: Sequence[MeasuredLayer], after: Sequence[MeasuredLayer]
) -> tuple[tuple[LayerChange, ...], Literal["layers", "modules"]]:
    if not before or not after:
        return (), "layers"
    common = {layer.name for layer in before} & {layer.name for layer in after}
    shared = sum(layer.share for layer in before if layer.name in common)
    if shared >= _BY_NAME:
        sides = [_times((layer.name, layer.time_ms) for layer in layers) for layers in (before, after)]
    else:
        sides = [_times((one.module or "?", one.time_ms) for one in by_module(layers)) for layers in (before, after)]
    changes = [
        LayerChange(name, sides[0].get(name), sides[1].get(name)) for name in dict.fromkeys((*sides[0], *sides[1]))
    ]
    kind: Literal["layers", "modules"] = "layers" if shared >= _BY_NAME else "modules"
    return tuple(sorted(changes, key=lambda one: -abs(one.change_ms))), kind


def _times(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, time_ms in rows:
        found[name] = found.get(name, 0.0) + time_ms
    return found


def _differences(before: LatencyReport, after: LatencyReport) -> list[str]:
    pairs: list[tuple[str, object, object]] = [("target", before.target, after.target)]
    pairs.append(("backend", before.backend, after.backend))
    pairs += [(name, before.conditions.get(name), after.conditions.get(name)) for name in _SAME_CONDITIONS]
    warnings = [f"{name} differs: {first} and {second}" for name, first, second in pairs if first != second]
    for side, report in (("first", before), ("second", after)):
        warnings += [f"{side}: {text}" for text in report.conditions.get("warnings", ())]
    return warnings
