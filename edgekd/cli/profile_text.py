"""Profiles and their comparison in words and tables."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table
from edgekd.core.errors import ExitCode

if TYPE_CHECKING:
    from edgekd.core.artifacts import LatencyReport
    from edgekd.core.budget import Budget
    from edgekd.profile import Comparison, Energy, GateVerdict, MetricChange, Profile

LAYERS_SHOWN = 15


def judged(profile: Profile, limits: Budget | None) -> Outcome:
    """Return a profile as the outcome of a command: its document, its text, and 3 when it misses a budget.

    Args:
        profile: What was found.
        limits: What it is held against, if anything; energy counts with the idle board's share.
    """
    from edgekd.profile import document_of, verdict

    known = {} if profile.energy is None else {"energy": profile.energy.total.gross_mj}
    judgement = verdict(profile.report, limits, known) if limits is not None else None
    document = {
        **document_of(profile),
        "budget": None if limits is None else str(limits),
        "verdict": None if judgement is None else dataclasses.asdict(judgement),
    }
    lines = [profile_text(profile)]
    if judgement is not None:
        lines += _verdict_lines(str(limits), judgement)
    is_missed = judgement is not None and not judgement.is_kept
    return Outcome(document, "\n".join(lines), ExitCode.GATE_MISSED if is_missed else ExitCode.DONE)


def profile_text(profile: Profile) -> str:
    """Describe a profile: its figures, layers, energy and memory, and what makes them doubtful."""
    lines = [_figures(profile.report, profile.model)]
    if profile.layers:
        lines.append(_layers(profile))
    if profile.energy is not None:
        lines.append(_energy(profile.energy))
    if profile.memory_mb:
        lines.append("memory: " + ", ".join(f"{name} {value:.1f} MB" for name, value in profile.memory_mb.items()))
    lines += [f"warning: {line}" for line in profile.report.conditions.get("warnings", ())]
    return "\n".join(lines)


def comparison_text(comparison: Comparison, before: Profile, after: Profile) -> str:
    """Describe a comparison: every figure with its interval, the layers that changed most, the verdict."""
    rows = [_metric_row(one) for one in comparison.metrics]
    header = ("figure", "first", "second", "change", "interval")
    lines = [f"first: {before.model}, second: {after.model}", format_table(header, rows)]
    if comparison.layers:
        shown = [
            (one.name, _ms(one.before_ms), _ms(one.after_ms), f"{one.change_ms:+.4f}", " + ".join(one.modules))
            for one in comparison.layers[:LAYERS_SHOWN]
        ]
        left_out = len(comparison.layers) - len(shown)
        lines.append(format_table((comparison.layers_are[:-1], "first ms", "second ms", "change ms", "modules"), shown))
        lines += [f"... and {left_out} more that changed less"] if left_out else []
    lines += [f"warning: {text}" for text in comparison.warnings]
    return "\n".join([*lines, _verdict(comparison)])


def _figures(report: LatencyReport, model: str) -> str:
    conditions = report.conditions
    label = "measured" if report.kind == "measured" else "predicted, not measured"
    columns = {
        "precision": report.precision,
        "p50 ms": f"{report.p50_ms:.4g}",
        "p50 interval": f"{report.low_ms:.3g}..{report.high_ms:.3g}",
        "p90 ms": _known(conditions.get("p90_ms")),
        "p99 ms": f"{report.p99_ms:.4g}",
        "p99.9 ms": _known(conditions.get("p999_ms")),
        "CoV": _known(conditions.get("cov")),
    }
    kept = {name: value for name, value in columns.items() if value}
    known = [
        f"{name} {conditions[name]}"
        for name in ("batch", "threads", "samples", "warmup", "soak_s", "provider")
        if name in conditions
    ]
    table = format_table(tuple(kept), [tuple(kept.values())])
    return f"{model} on {report.target}, {label} by {report.backend}\n{table}\n{', '.join(known)}".rstrip()


def _known(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _layers(profile: Profile) -> str:
    slowest = sorted(profile.layers, key=lambda layer: -layer.time_ms)
    rows = [
        (f"{layer.time_ms:.4f}", f"{100 * layer.share:.1f} %", layer.kind, " + ".join(layer.modules) or layer.name)
        for layer in slowest[:LAYERS_SHOWN]
    ]
    left_out = len(slowest) - len(rows)
    more = f"\n... and {left_out} faster layers" if left_out else ""
    return format_table(("ms", "share", "kind", "modules"), rows) + more


def _energy(energy: Energy) -> str:
    total = energy.total
    net = "idle power was not measured" if total.net_mj is None else f"{total.net_mj:.3g} mJ above the idle board"
    return (
        f"energy of an inference: {total.gross_mj:.3g} mJ ({net}), {total.mean_w:.3g} W on {energy.total_is}, "
        f"{energy.samples} power samples over {energy.window_s:.3g} s"
    )


def _metric_row(change: MetricChange) -> tuple[str, str, str, str, str]:
    interval = "-"
    if change.low is not None and change.high is not None:
        interval = f"{100 * (change.low - 1):+.1f} % .. {100 * (change.high - 1):+.1f} %"
    percent = f"{100 * (change.ratio - 1):+.1f} %"
    return (change.metric, f"{change.before:.4g}", f"{change.after:.4g}", percent, interval)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _verdict(comparison: Comparison) -> str:
    change = next(one for one in comparison.metrics if one.metric == comparison.judged)
    grew, allowed = f"{100 * (change.ratio - 1):+.1f} %", f"{100 * comparison.allowed:g} %"
    if comparison.verdict == "kept":
        return f"{comparison.judged} changed by {grew}: within the {allowed} allowed ({comparison.interval})"
    if comparison.verdict == "slower":
        return f"{comparison.judged} changed by {grew}: SLOWER than the {allowed} allowed ({comparison.interval})"
    return f"{comparison.judged} changed by {grew}, above the {allowed} allowed, but maybe by chance: measure longer"


def _verdict_lines(budget: str, judgement: GateVerdict) -> list[str]:
    if judgement.is_kept:
        return [f"budget {budget}: kept ({judgement.kind})"]
    kept = [f"  {item.clause}: kept" for item in judgement.clauses if item.is_kept]
    return [f"budget {budget}: MISSED", *(f"  {miss}" for miss in judgement.misses), *kept]
