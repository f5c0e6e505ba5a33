"""Measures the latency of an open engine, and writes down everything needed to read the figure."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

import numpy as np

from edgekd.core.artifacts import LatencyReport, Precision
from edgekd.core.errors import BuildError, ConfigError
from edgekd.data import NetInputs
from edgekd.engine import Runner
from edgekd.profile.host import Host, HostState, SystemHost
from edgekd.profile.statistics import FEWEST_FOR_INTERVAL, Summary, summarise

_HIGH_COV = 0.25
_CLOCK_DROP = 0.9


def measure(
    runner: Runner,
    inputs: NetInputs,
    *,
    target: str,
    precision: Precision,
    warmup: int = 20,
    min_samples: int = 300,
    min_seconds: float = 1.0,
    max_seconds: float = 30.0,
    host: Host | None = None,
) -> LatencyReport:
    """Time `runner.run(inputs)` again and again.

    Every sample is the wall-clock time of one call, copies in and out included. Sampling goes on until both
    `min_samples` and `min_seconds` are reached and stops at `max_seconds` at the latest (but not before six samples).
    No sample is dropped. The interval of the median is exact for independent samples; neighbouring runs are not quite
    independent, so the lag-1 correlation is recorded with it.

    Args:
        runner: An open engine.
        inputs: One batch, pictures float32 `[B, C, H, W]` or tokens int64 `[B, L]`.
        target: Name of the machine measured.
        precision: Precision the engine was asked for.
        warmup: Runs before the first sample; at least one is made, to check the answer.
        min_samples: Fewest samples, at least six.
        min_seconds: Shortest time of sampling.
        max_seconds: Longest time of warm-up, and again of sampling.
        host: Clock and machine; this machine by default.

    Returns:
        A report of kind `"measured"`: percentiles by nearest rank, `low_ms` and `high_ms` the order-statistic interval
        of the median (at least 95 %), and in `conditions` samples, warm-up, p90, mean, CoV, threads, provider, CPU,
        governor, clocks, load, versions, batch and warnings.

    Raises:
        ConfigError: `min_samples` or a time is out of range.
        BuildError: The engine gives NaN or infinite logits: its speed would mean nothing.
    """
    problems = _problems(warmup, min_samples, min_seconds, max_seconds)
    if problems:
        raise ConfigError("measuring latency: " + "; ".join(problems))
    host = host or SystemHost()
    before = host.state()
    warmed = _warm_up(runner, inputs, warmup, max_seconds, host)
    samples_ms, sampled_s = _sample(runner, inputs, min_samples, (min_seconds, max_seconds), host)
    after = host.state()
    summary = summarise(samples_ms)
    warnings = [
        *_timing_warnings(summary, min_samples, max_seconds),
        *_machine_warnings(before, after, int(runner.facts.get("threads", 1))),
        *_precision_warnings(runner, precision),
    ]
    conditions = {
        "batch": len(inputs),
        "warmup": warmed,
        "sampled_s": round(sampled_s, 6),
        "lag1_correlation": _lag1_correlation(samples_ms),
        **_statistics(summary),
        **_software(runner),
        **_machine(before, after),
        "warnings": warnings,
    }
    return LatencyReport(
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


def _problems(warmup: int, min_samples: int, min_seconds: float, max_seconds: float) -> list[str]:
    problems = []
    if warmup < 0:
        problems.append(f"warmup is {warmup}, it must not be negative")
    if min_samples < FEWEST_FOR_INTERVAL:
        problems.append(f"min_samples is {min_samples}, an interval needs at least {FEWEST_FOR_INTERVAL}")
    if not 0 <= min_seconds <= max_seconds or max_seconds == 0:
        problems.append(f"min_seconds {min_seconds} and max_seconds {max_seconds} must be 0 <= min <= max, max > 0")
    return problems


def _warm_up(runner: Runner, inputs: NetInputs, warmup: int, max_seconds: float, host: Host) -> int:
    deadline = host.now_ns() + round(max_seconds * 1e9)
    logits = runner.run(inputs)
    if not np.isfinite(logits).all():
        raise BuildError("the engine gives NaN or infinite logits for these inputs; its latency means nothing")
    runs = 1
    while runs < warmup and host.now_ns() < deadline:
        runner.run(inputs)
        runs += 1
    return runs


def _sample(
    runner: Runner, inputs: NetInputs, min_samples: int, seconds: tuple[float, float], host: Host
) -> tuple[list[float], float]:
    min_ns, max_ns = (round(value * 1e9) for value in seconds)
    samples_ns: list[int] = []
    begin = host.now_ns()
    while True:
        start = host.now_ns()
        runner.run(inputs)
        end = host.now_ns()
        samples_ns.append(end - start)
        elapsed, count = end - begin, len(samples_ns)
        is_enough = count >= min_samples and elapsed >= min_ns
        if is_enough or (elapsed >= max_ns and count >= FEWEST_FOR_INTERVAL):
            return [sample / 1e6 for sample in samples_ns], elapsed / 1e9


def _lag1_correlation(samples_ms: list[float]) -> float:
    centred = np.asarray(samples_ms) - np.mean(samples_ms)
    variance = float((centred**2).sum())
    return round(float((centred[1:] * centred[:-1]).sum()) / variance, 4) if variance > 0 else 0.0


def _statistics(summary: Summary) -> dict[str, Any]:
    return {
        "samples": summary.samples,
        "percentiles": "nearest rank",
        "interval": f"order statistics of the median, {100 * summary.coverage:.2f} % if samples are independent",
        **{name: getattr(summary, name) for name in ("p90_ms", "mean_ms", "min_ms", "max_ms", "cov")},
    }


def _software(runner: Runner) -> dict[str, Any]:
    known = ("threads", "version", "compute_precisions")
    return {
        "provider": runner.provider,
        "python": platform.python_version(),
        **{name: runner.facts[name] for name in known if name in runner.facts},
    }


def _machine(before: HostState, after: HostState) -> dict[str, Any]:
    fixed = {"cpu_model": before.cpu_model, "logical_cpus": before.logical_cpus}
    changing = ("governor", "clock_mhz", "load_1min")
    states = {"before": dataclasses.asdict(before), "after": dataclasses.asdict(after)}
    return fixed | {f"{name}_{when}": state[name] for when, state in states.items() for name in changing}


def _timing_warnings(summary: Summary, min_samples: int, max_seconds: float) -> list[str]:
    warnings = []
    if summary.cov > _HIGH_COV:
        warnings.append(
            f"the coefficient of variation is {summary.cov:.2f}, above {_HIGH_COV}: the machine was not quiet"
        )
    if summary.samples < min_samples:
        warnings.append(f"only {summary.samples} of {min_samples} samples fitted into {max_seconds:g} s")
    return warnings


def _machine_warnings(before: HostState, after: HostState, threads: int) -> list[str]:
    warnings = []
    if before.load_1min > before.logical_cpus - threads:
        warnings.append(
            f"load average {before.load_1min:g} before measuring leaves less than {threads} of {before.logical_cpus} "
            "CPUs free"
        )
    if before.clock_mhz and after.clock_mhz and after.clock_mhz < _CLOCK_DROP * before.clock_mhz:
        warnings.append(f"the CPU clock fell from {before.clock_mhz:g} to {after.clock_mhz:g} MHz")
    if before.governor != after.governor:
        warnings.append(f"the governor changed from {before.governor} to {after.governor}")
    return warnings


def _precision_warnings(runner: Runner, precision: str) -> list[str]:
    counts = runner.facts.get("compute_precisions") or {}
    if not counts or counts.get(precision, 0) > 0:
        return []
    real = ", ".join(f"{count} in {name}" for name, count in counts.items())
    return [f"{precision} was asked for, but {runner.provider} computes {real}"]
