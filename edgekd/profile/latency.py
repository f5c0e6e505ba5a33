"""Measures the latency of an open engine, and writes down everything needed to read the figure."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.core.artifacts import LatencyReport, Precision
from edgekd.core.errors import BuildError, ConfigError
from edgekd.data import NetInputs
from edgekd.engine import Runner
from edgekd.profile.host import Host, HostState, SystemHost
from edgekd.profile.statistics import FEWEST_FOR_INTERVAL, Summary, quantiles_of, summarise
from edgekd.profile.steady import Drift, drift_of, is_steady

_HIGH_COV = 0.25
_CLOCK_DROP = 0.9
_LITTLE_LOAD = 0.25


@dataclass(frozen=True)
class Timing:
    """A measurement with every sample.

    Attributes:
        report: The figures.
        samples_ms: Milliseconds of each run, in order.
        starts_ms: When each run started, in milliseconds of the host's clock.
    """

    report: LatencyReport
    samples_ms: tuple[float, ...]
    starts_ms: tuple[float, ...]


def measure(
    runner: Runner,
    inputs: NetInputs,
    *,
    target: str,
    precision: Precision,
    warmup: int | None = None,
    soak_s: float = 0.0,
    min_samples: int = 300,
    min_seconds: float = 1.0,
    max_seconds: float = 30.0,
    host: Host | None = None,
) -> Timing:
    """Time `runner.run(inputs)` again and again, and keep every sample.

    Every sample is the wall-clock time of one call, copies in and out included. Sampling goes on until both
    `min_samples` and `min_seconds` are reached and stops at `max_seconds` at the latest (but not before six samples).
    No sample is dropped. The interval of the median is exact for independent samples; neighbouring runs are not quite
    independent, so the lag-1 correlation is recorded with it.

    Args:
        runner: An open engine.
        inputs: One batch, pictures float32 `[B, C, H, W]` or tokens int64 `[B, L]`.
        target: Name of the machine measured.
        precision: Precision the engine was asked for.
        warmup: Runs before the first sample; by default as many as it takes to be steady (`edgekd.profile.steady`). At
            least one is made, to check the answer.
        soak_s: Seconds of running after the warm-up and before the first sample, to reach working temperature.
        min_samples: Fewest samples, at least six.
        min_seconds: Shortest time of sampling.
        max_seconds: Longest time of warm-up, and again of sampling.
        host: Clock and machine; this machine by default.

    Returns:
        The samples and a report of kind `"measured"`: percentiles by nearest rank, `low_ms` and `high_ms` the
        order-statistic interval of the median (at least 95 %), and in `conditions` samples, warm-up, soak, p90, p99.9
        where there are samples for it, the interval of each, mean, CoV, threads, provider, CPU, governor, clocks,
        temperatures, load, memory, versions, batch and warnings.

    Raises:
        ConfigError: `min_samples` or a time is out of range.
        BuildError: The engine gives NaN or infinite logits: its speed would mean nothing.
    """
    problems = _problems(warmup, soak_s, min_samples, min_seconds=min_seconds, max_seconds=max_seconds)
    if problems:
        raise ConfigError("measuring latency: " + "; ".join(problems))
    host = host or SystemHost()
    before = host.state()
    warmed = _warm_up(runner, inputs, warmup, max_seconds, host)
    soak = _soak(runner, inputs, soak_s, host)
    starts_ns, samples_ms, sampled_s = _sample(runner, inputs, min_samples, (min_seconds, max_seconds), host)
    after = host.state()
    summary, drift = summarise(samples_ms), drift_of(samples_ms)
    warnings = [
        *timing_warnings(summary, drift, min_samples),
        *([] if warmed.is_steady else [f"latency was still falling when the warm-up ended after {max_seconds:g} s"]),
        *machine_warnings(before, after, int(runner.facts.get("threads", 1))),
        *_precision_warnings(runner, precision),
    ]
    conditions = {
        "batch": len(inputs),
        "warmup": warmed.runs,
        **soak,
        "sampled_s": round(sampled_s, 6),
        "lag1_correlation": _lag1_correlation(samples_ms),
        **summary_conditions(summary),
        **quantile_conditions(samples_ms),
        **_software(runner),
        **_machine(before, after),
        "warnings": warnings,
    }
    report = LatencyReport(
        kind="measured",
        target=target,
        precision=precision,
        backend=str(runner.facts.get("backend", "unknown")),
        p50_ms=summary.p50_ms,
        p99_ms=summary.p99_ms,
        low_ms=summary.low_ms,
        high_ms=summary.high_ms,
        conditions=conditions,
        parents=(str(runner.facts["engine_digest"]),) if "engine_digest" in runner.facts else (),
    )
    return Timing(report, tuple(samples_ms), tuple(start / 1e6 for start in starts_ns))


@dataclass(frozen=True)
class _WarmUp:
    runs: int
    is_steady: bool


def _problems(
    warmup: int | None, soak_s: float, min_samples: int, *, min_seconds: float, max_seconds: float
) -> list[str]:
    problems = []
    if soak_s < 0:
        problems.append(f"soak_s is {soak_s}, it must not be negative")
    if warmup is not None and warmup < 0:
        problems.append(f"warmup is {warmup}, it must not be negative")
    if min_samples < FEWEST_FOR_INTERVAL:
        problems.append(f"min_samples is {min_samples}, an interval needs at least {FEWEST_FOR_INTERVAL}")
    if not 0 <= min_seconds <= max_seconds or max_seconds == 0:
        problems.append(f"min_seconds {min_seconds} and max_seconds {max_seconds} must be 0 <= min <= max, max > 0")
    return problems


def _warm_up(runner: Runner, inputs: NetInputs, warmup: int | None, max_seconds: float, host: Host) -> _WarmUp:
    deadline = host.now_ns() + round(max_seconds * 1e9)
    logits, first_ms = _timed(runner, inputs, host)
    if not np.isfinite(logits).all():
        raise BuildError("the engine gives NaN or infinite logits for these inputs; its latency means nothing")
    samples_ms = [first_ms]
    while (len(samples_ms) < warmup if warmup is not None else not is_steady(samples_ms)) and host.now_ns() < deadline:
        samples_ms.append(_timed(runner, inputs, host)[1])
    return _WarmUp(len(samples_ms), warmup is not None or is_steady(samples_ms))


def _timed(runner: Runner, inputs: NetInputs, host: Host) -> tuple[NDArray[np.float32], float]:
    start = host.now_ns()
    logits = runner.run(inputs)
    return logits, (host.now_ns() - start) / 1e6


def _soak(runner: Runner, inputs: NetInputs, soak_s: float, host: Host) -> dict[str, Any]:
    if not soak_s:
        return {}
    deadline = host.now_ns() + round(soak_s * 1e9)
    samples_ms: list[float] = []
    while host.now_ns() < deadline:
        samples_ms.append(_timed(runner, inputs, host)[1])
    drift = drift_of(samples_ms)
    found = {} if drift is None else {"soak_start_p50_ms": drift.start_ms, "soak_end_p50_ms": drift.end_ms}
    return {"soak_s": soak_s, "soak_runs": len(samples_ms), **found}


def _sample(
    runner: Runner, inputs: NetInputs, min_samples: int, seconds: tuple[float, float], host: Host
) -> tuple[list[int], list[float], float]:
    min_ns, max_ns = (round(value * 1e9) for value in seconds)
    starts_ns: list[int] = []
    samples_ns: list[int] = []
    begin = host.now_ns()
    while True:
        start = host.now_ns()
        runner.run(inputs)
        end = host.now_ns()
        starts_ns.append(start)
        samples_ns.append(end - start)
        elapsed, count = end - begin, len(samples_ns)
        is_enough = count >= min_samples and elapsed >= min_ns
        if is_enough or (elapsed >= max_ns and count >= FEWEST_FOR_INTERVAL):
            return starts_ns, [sample / 1e6 for sample in samples_ns], elapsed / 1e9


def _lag1_correlation(samples_ms: list[float]) -> float:
    centred = np.asarray(samples_ms) - np.mean(samples_ms)
    variance = float((centred**2).sum())
    return round(float((centred[1:] * centred[:-1]).sum()) / variance, 4) if variance > 0 else 0.0


def summary_conditions(summary: Summary) -> dict[str, Any]:
    """Return what a report's conditions hold of a summary."""
    return {
        "samples": summary.samples,
        "percentiles": "nearest rank",
        "interval": f"order statistics of the median, {100 * summary.coverage:.2f} % if samples are independent",
        **{name: getattr(summary, name) for name in ("p90_ms", "mean_ms", "min_ms", "max_ms", "cov")},
    }


def quantile_conditions(samples_ms: Sequence[float]) -> dict[str, Any]:
    """Return p99.9, where the samples suffice for it, and the interval of every percentile that they suffice for."""
    quantiles = quantiles_of(samples_ms)
    rare = {f"{one.name}_ms": one.value_ms for one in quantiles if one.name == "p999"}
    return {**rare, "intervals_ms": {one.name: [one.low_ms, one.high_ms] for one in quantiles}}


def _software(runner: Runner) -> dict[str, Any]:
    known = ("threads", "version", "compute_precisions", "cuda_graph")
    return {
        "provider": runner.provider,
        "python": platform.python_version(),
        **{name: runner.facts[name] for name in known if name in runner.facts},
    }


def _machine(before: HostState, after: HostState) -> dict[str, Any]:
    fixed = {"cpu_model": before.cpu_model, "logical_cpus": before.logical_cpus}
    always = ("governor", "clock_mhz", "load_1min")
    where_known = ("busy_cpus", "temperature_c", "throttle_events", "gpu_clock_mhz", "resident_mb", "peak_resident_mb")
    states = {"before": dataclasses.asdict(before), "after": dataclasses.asdict(after)}
    return fixed | {
        f"{name}_{when}": state[name]
        for when, state in states.items()
        for name in (*always, *where_known)
        if name in always or state[name] is not None
    }


def timing_warnings(summary: Summary, drift: Drift | None, min_samples: int) -> list[str]:
    """Say what about the samples makes a figure doubtful: their spread, their drift, too few of them."""
    warnings = []
    if summary.cov > _HIGH_COV:
        warnings.append(
            f"the coefficient of variation is {summary.cov:.2f}, above {_HIGH_COV}: the machine was not quiet"
        )
    if drift is not None and drift.is_seen:
        warnings.append(
            f"latency went from {drift.start_ms:.4g} to {drift.end_ms:.4g} ms while it was measured "
            f"({100 * drift.change:+.1f} %): soak longer, or look at clocks and temperature"
        )
    if summary.samples < min_samples:
        warnings.append(f"only {summary.samples} of {min_samples} samples were taken")
    return warnings


def machine_warnings(before: HostState, after: HostState, threads: int) -> list[str]:
    """Say what about the machine makes a figure doubtful: load, clocks that fell, throttling, a changed governor."""
    warnings = []
    if before.busy_cpus is None and before.load_1min > before.logical_cpus - threads:
        warnings.append(
            f"load average {before.load_1min:g} before measuring leaves less than {threads} of {before.logical_cpus} "
            "CPUs free"
        )
    if before.busy_cpus is not None and before.busy_cpus > before.logical_cpus - threads + _LITTLE_LOAD:
        warnings.append(
            f"{before.busy_cpus:.1f} of {before.logical_cpus} CPUs were busy with other work before measuring, which "
            f"needs {threads}"
        )
    for unit, first, last in (
        ("CPU", before.clock_mhz, after.clock_mhz),
        ("GPU", before.gpu_clock_mhz, after.gpu_clock_mhz),
    ):
        if first and last and last < _CLOCK_DROP * first:
            warnings.append(f"the {unit} clock fell from {first:g} to {last:g} MHz")
    throttled = (after.throttle_events or 0) - (before.throttle_events or 0)
    if throttled > 0:
        warnings.append(f"the CPUs were throttled {throttled} times: they were too hot")
    if before.governor != after.governor:
        warnings.append(f"the governor changed from {before.governor} to {after.governor}")
    return warnings


def _precision_warnings(runner: Runner, precision: str) -> list[str]:
    counts = runner.facts.get("compute_precisions") or {}
    if not counts or counts.get(precision, 0) > 0:
        return []
    real = ", ".join(f"{count} in {name}" for name, count in counts.items())
    return [f"{precision} was asked for, but {runner.provider} computes {real}"]
