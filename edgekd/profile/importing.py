"""A profile from the files of a board: trtexec's exports and a log of tegrastats, brought back and read here."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgekd.core.artifacts import LatencyReport, Precision
from edgekd.core.errors import ConfigError, DataError
from edgekd.profile.document import Profile, Span
from edgekd.profile.latency import quantile_conditions, summary_conditions, timing_warnings
from edgekd.profile.layers import layers_from_trtexec
from edgekd.profile.power import Energy, energy_of
from edgekd.profile.statistics import summarise
from edgekd.profile.steady import drift_of
from edgekd.profile.tegrastats import TegrastatsLine, lines_from_text, power_samples
from edgekd.profile.trtexec import DEFAULT_WARMUP_MS, Inference, LayerInfo, LayerProfile, Times, read_export

F = TypeVar("F", Times, LayerProfile, LayerInfo)
_ENQUEUE_BOUND = 0.8  # where trtexec itself warns
_CLOCK_DROP = 0.9
_FEWEST_SAMPLES = 300
_TRACKS = ("enqueue", "h2d", "compute", "d2h")


@dataclass(frozen=True)
class BoardFiles:
    """Files brought back from a board.

    Attributes:
        exports: Files of trtexec's `--exportTimes`, `--exportProfile`, `--exportLayerInfo`, in any order.
        tegrastats: A log taken while trtexec ran, and only then; None where there is none.
        idle_tegrastats: A log of the idle board; None where there is none.
        interval_ms: What `tegrastats --interval` was; None for what the stamps say.
        warmup_ms: What `trtexec --warmUp` was.
    """

    exports: tuple[Path, ...]
    tegrastats: Path | None = None
    idle_tegrastats: Path | None = None
    interval_ms: float | None = None
    warmup_ms: float = DEFAULT_WARMUP_MS


def profile_from_board(
    files: BoardFiles, *, model: str, target: str, precision: Precision, batch: int, known_nodes: Collection[str] = ()
) -> Profile:
    """Make a profile of what was measured on a board.

    A sample is trtexec's latency: copy in, compute and copy out. Energy is mean power times the time between
    inferences, since trtexec enqueues one ahead.

    Args:
        files: What was brought back; times at least.
        model: ONNX file of the engine that was timed.
        target: The board.
        precision: Precision of the engine.
        batch: Its batch size.
        known_nodes: Names of the model's nodes, to find modules by.

    Returns:
        The profile, of kind `"measured"`.

    Raises:
        ConfigError: No times are among the files, or two files are of one kind.
        DataError: A file is malformed; the field is named.
    """
    exports = [(path, read_export(path, warmup_ms=files.warmup_ms)) for path in files.exports]
    times, layers, info = _only(exports, Times), _only(exports, LayerProfile), _only(exports, LayerInfo)
    if times is None:
        raise ConfigError("no times are among the files: pass the one of trtexec --exportTimes too")
    lines = _lines(files.tegrastats)
    samples_ms = [one.latency_ms for one in times.inferences]
    if len(samples_ms) < 2:
        raise DataError(f"{len(samples_ms)} timed inference is too few; run trtexec for longer")
    summary = summarise(samples_ms)
    energy = _energy(times.inferences, lines, _lines(files.idle_tegrastats), files.interval_ms)
    conditions = {
        "batch": batch,
        "warmup": times.dropped,
        "provider": "trtexec",
        **summary_conditions(summary),
        **quantile_conditions(samples_ms),
        **_parts(times.inferences),
        **_board_state(lines),
        "warnings": [
            *timing_warnings(summary, drift_of(samples_ms), _FEWEST_SAMPLES),
            *_enqueue_warnings(times.inferences),
            *_clock_warnings(lines),
        ],
    }
    report = LatencyReport(
        kind="measured",
        target=target,
        precision=precision,
        backend="tensorrt",
        p50_ms=summary.p50_ms,
        p99_ms=summary.p99_ms,
        low_ms=summary.low_ms,
        high_ms=summary.high_ms,
        conditions=conditions,
    )
    return Profile(
        model,
        report,
        samples_ms=tuple(samples_ms),
        spans=_spans(times.inferences),
        layers=() if layers is None else layers_from_trtexec(layers, info, known_nodes),
        energy=energy,
        memory_mb={"board_used": max(line.ram_used_mb for line in lines) * 2**20 / 1e6} if lines else {},
    )


def _only(exports: Sequence[tuple[Path, Any]], kind: type[F]) -> F | None:
    found = [(path, content) for path, content in exports if isinstance(content, kind)]
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(str(path) for path, _ in found)} are of one kind: pass one of them")
    return found[0][1] if found else None


def _lines(log: Path | None) -> tuple[TegrastatsLine, ...]:
    if log is None:
        return ()
    try:
        return lines_from_text(log.read_text(encoding="utf-8"), str(log))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {log}: {error}") from error


def _energy(
    inferences: Sequence[Inference],
    lines: Sequence[TegrastatsLine],
    idle: Sequence[TegrastatsLine],
    interval_ms: float | None,
) -> Energy | None:
    if not lines:
        return None
    samples = power_samples(lines, interval_ms)
    window_s = samples[-1].time_s - samples[0].time_s
    between_s = (inferences[-1].compute[1] - inferences[0].compute[1]) / (len(inferences) - 1) / 1e3
    if not between_s > 0:
        raise DataError("'endComputeMs' does not grow from the first inference to the last: the times are not in order")
    runs = max(round(window_s / between_s), 1)
    rest = power_samples(idle, interval_ms) if idle else ()
    return energy_of(samples, samples[0].time_s, samples[-1].time_s, runs=runs, idle=rest)


def _parts(inferences: Sequence[Inference]) -> dict[str, float]:
    spans = {track: [getattr(one, track) for one in inferences] for track in _TRACKS}
    return {f"{track}_p50_ms": statistics.median(end - start for start, end in own) for track, own in spans.items()}


def _spans(inferences: Sequence[Inference]) -> tuple[Span, ...]:
    return tuple(Span(track, *getattr(one, track)) for one in inferences for track in _TRACKS)


def _board_state(lines: Sequence[TegrastatsLine]) -> dict[str, float]:
    found: dict[str, float] = {}
    for when, line in (("before", lines[0]), ("after", lines[-1])) if lines else ():
        known = {
            "gpu_clock_mhz": line.gpu_mhz,
            "emc_clock_mhz": line.emc_mhz,
            "temperature_c": max(line.temperatures_c.values(), default=None),
        }
        found |= {f"{name}_{when}": value for name, value in known.items() if value is not None}
    return found


def _enqueue_warnings(inferences: Sequence[Inference]) -> list[str]:
    parts = _parts(inferences)
    if parts["enqueue_p50_ms"] <= _ENQUEUE_BOUND * parts["compute_p50_ms"]:
        return []
    return [
        f"enqueueing takes {parts['enqueue_p50_ms']:.3g} ms of the {parts['compute_p50_ms']:.3g} ms that the GPU "
        "computes: the CPU bounds this engine, use CUDA graphs (trtexec --useCudaGraph)"
    ]


def _clock_warnings(lines: Sequence[TegrastatsLine]) -> list[str]:
    warnings = []
    for unit, clocks in (("GPU", [line.gpu_mhz for line in lines]), ("memory", [line.emc_mhz for line in lines])):
        known = [clock for clock in clocks if clock]
        if known and known[-1] < _CLOCK_DROP * max(known):
            warnings.append(
                f"the {unit} clock fell from {max(known):g} to {known[-1]:g} MHz: throttled, or jetson_clocks is off"
            )
    return warnings
