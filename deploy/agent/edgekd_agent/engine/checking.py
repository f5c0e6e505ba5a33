"""In the child: does an engine give the right answers, in time, in the memory it may have."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd_agent.engine.facts import hottest_c
from edgekd_agent.engine.running import Engine, Refused, open_engine, run_all
from edgekd_agent.errors import AgentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOWS = 3
_RUNS = 100
_LEAST_RUNS = 20
_WINDOW_S = 2.0
_MIB = 1 << 20


def check(job: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Check an engine.

    Args:
        job: `build` and `model` and `golden` (paths), `plan` and `health` (sections of the manifest), `is_timed`,
            `soak_s`.
        folder: Not used; a check leaves nothing but its result.

    Returns:
        What was measured: `metric`, `latency_ms` by statistic, `windows`, `memory_bytes`, `temperature_c`.

    Raises:
        Refused: It may not serve; the kind says which part of the check failed.
    """
    del folder
    from edgekd_agent.engine import golden

    health, shapes = job["health"], job["plan"]["opt_profile"]
    inputs, expected = golden.read(Path(job["golden"]))
    try:
        engine = open_engine(Path(job["build"]), Path(job["model"]))
    except AgentError as error:
        raise Refused("health", error.message) from error
    found: dict[str, Any] = {"temperature_c": [hottest_c()]}
    found["metric"] = _answers(engine, inputs, expected, (shapes["min"][0], shapes["max"][0]), health)
    if job["is_timed"]:
        found.update(_timed(engine, _tiled(inputs, shapes["opt"][0]), health))
        _soak(engine, _tiled(inputs, shapes["opt"][0]), float(job["soak_s"]))
    found["temperature_c"].append(hottest_c())
    found["memory_bytes"] = _memory(engine, health["max_memory_mib"])
    return found


def _answers(
    engine: Engine, inputs: NDArray[Any], expected: NDArray[Any], batch: tuple[int, int], health: Mapping[str, Any]
) -> float:
    import numpy as np

    logits = next(iter(run_all(engine, inputs, batch).values()))
    if logits.shape != expected.shape:
        raise Refused("health", f"outputs have shape {logits.shape}, not {expected.shape}")
    if not np.isfinite(logits).all():
        raise Refused("health", f"{int((~np.isfinite(logits)).sum())} of {logits.size} outputs are NaN or infinite")
    value = metric_value(health["metric"], logits, expected)
    if value > health["tolerance"]:
        raise Refused(
            "health", f"{health['metric']} on the golden inputs is {value:g}, allowed is {health['tolerance']:g}"
        )
    return value


def metric_value(metric: str, logits: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return how far outputs are from the expected ones, by the manifest's metric."""
    import numpy as np

    if metric == "argmax_disagreement":
        return float((logits.argmax(1) != expected.argmax(1)).mean())
    return float(np.abs(logits.astype(np.float64) - expected).max())


def _timed(engine: Engine, inputs: NDArray[Any], health: Mapping[str, Any]) -> dict[str, Any]:
    """Time three windows; each statistic is the median of the windows, so that one hiccup of the system is none."""
    for _ in range(health["warmup"]):
        engine.run(inputs)
    windows = [_window(engine, inputs) for _ in range(_WINDOWS)]
    latency = {name: statistics.median(window[name] for window in windows) for name in windows[0]}
    missed = [
        f"{name} is {latency[name]:.3f} ms, allowed are {limit:g}"
        for name, limit in sorted(health["budget_ms"].items())
        if latency[name] > limit
    ]
    if missed:
        raise Refused("budget", "; ".join(missed))
    return {"latency_ms": latency, "windows": windows}


def _window(engine: Engine, inputs: NDArray[Any]) -> dict[str, float]:
    spent_ms: list[float] = []
    began = time.perf_counter()
    while len(spent_ms) < _LEAST_RUNS or (len(spent_ms) < _RUNS and time.perf_counter() - began < _WINDOW_S):
        start = time.perf_counter()
        engine.run(inputs)
        spent_ms.append(1e3 * (time.perf_counter() - start))
    spent_ms.sort()
    return {
        "p50": _quantile(spent_ms, 0.5),
        "p90": _quantile(spent_ms, 0.9),
        "p99": _quantile(spent_ms, 0.99),
        "mean": statistics.fmean(spent_ms),
    }


def _quantile(ordered: list[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def _soak(engine: Engine, inputs: NDArray[Any], soak_s: float) -> None:
    import numpy as np

    deadline = time.monotonic() + soak_s
    while time.monotonic() < deadline:
        if not all(np.isfinite(value).all() for value in engine.run(inputs).values()):
            raise Refused("health", "an output became NaN or infinite during the soak")


def _memory(engine: Engine, ceiling_mib: int | None) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    memory_bytes = (1024 * int(found.group(1)) if found else 0) + engine.device_memory_bytes()
    if ceiling_mib is not None and memory_bytes > ceiling_mib * _MIB:
        raise Refused("memory", f"it took {memory_bytes // _MIB} MiB, allowed are {ceiling_mib}")
    return memory_bytes


def _tiled(inputs: NDArray[Any], batch: int) -> NDArray[Any]:
    import numpy as np

    return np.ascontiguousarray(np.resize(inputs, (batch, *inputs.shape[1:])))
