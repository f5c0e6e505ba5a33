"""Figures and sentences as the page prints them; the words for a prediction are chosen here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from edgekd.report.facts import FidelityRow, LatencyRow, PairedGain, TaskFacts
from edgekd.report.run_report import RunReport, Verdict

PREDICTED = "predicted, not measured"
_HEADLINES = {
    Verdict.KEPT: "Budget kept, measured",
    Verdict.MISSED: "Budget missed, measured",
    Verdict.NO_BUDGET: "No budget was given",
    Verdict.PREDICTED_KEPT: f"Budget kept: {PREDICTED}",
    Verdict.PREDICTED_MISSED: f"Budget missed: {PREDICTED}",
}
_TONES = {
    Verdict.KEPT: "good",
    Verdict.MISSED: "bad",
    Verdict.NO_BUDGET: "plain",
    Verdict.PREDICTED_KEPT: "good open",
    Verdict.PREDICTED_MISSED: "bad open",
}
_UNITS = ("B", "KiB", "MiB", "GiB")


def figure(value: float) -> str:
    """Return a figure with three significant digits, without exponent for everyday sizes."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = max(0, 2 - _exponent(value))
    return f"{value:.{digits}f}"


def milliseconds(value: float) -> str:
    """Return a latency with its unit."""
    return f"{figure(value)} ms"


def percent(share: float) -> str:
    """Return a share 0..1 as a percentage with two decimals."""
    return f"{100 * share:.2f} %"


def score(value: float, task: TaskFacts) -> str:
    """Return a score as its metric is printed: a percentage, or three decimals."""
    return percent(value) if task.is_share else signed(f"{value:.3f}")


def spread(deviation: float, task: TaskFacts) -> str:
    """Return a deviation of scores without unit."""
    return f"{100 * deviation:.2f}" if task.is_share else f"{deviation:.3f}"


def difference(value: float, task: TaskFacts) -> str:
    """Return a difference of scores with its sign, in percentage points where scores are percentages."""
    return signed(f"{100 * value:+.2f}") + " points" if task.is_share else signed(f"{value:+.3f}")


def signed(number: str) -> str:
    """Return a printed number with a true minus sign."""
    return number.replace("-", "\N{MINUS SIGN}")


def metric_title(task: TaskFacts) -> str:
    """Return the metric's name as a heading."""
    return task.metric[:1].upper() + task.metric[1:]


def fidelity_sentence(rows: Sequence[FidelityRow], task: TaskFacts) -> str:
    """Say how far the students answer as the teacher does, and how far their distributions are."""
    parts = []
    for role in ("alone", "distilled"):
        mine = [row for row in rows if row.role == role]
        if mine:
            agreement = sum(row.agreement for row in mine) / len(mine)
            kl = sum(row.kl for row in mine) / len(mine)
            parts.append(f"{role} {score(agreement, task)} (KL {figure(kl)})")
    if not parts:
        return ""
    return f"Agreement with the teacher ({task.agreement}) on the {rows[0].split} split: {', '.join(parts)}."


def condition(value: JsonValue) -> str:
    """Return one condition of a measurement or prediction: figures as figures, what has parts part by part."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {condition(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ("; " if any(isinstance(part, str) for part in value) else " ").join(map(condition, value))
    return figure(value) if isinstance(value, float) else str(value)


def doubts(rows: Sequence[LatencyRow]) -> list[str]:
    """Return what speaks against latencies, a line a network: the machine was busy, slowed down or did other work."""
    return [
        f"{row.network} {row.precision} on {row.target}: {condition(row.conditions['warnings'])}"
        for row in rows
        if row.conditions.get("warnings")
    ]


def count(value: int) -> str:
    """Return a number in thousands groups up to 99,999, then with k, M or G."""
    if value < 100_000:
        return f"{value:,}"
    thousands = min((len(str(value)) - 1) // 3, 3)
    return f"{figure(value / 1000**thousands)} {' kMG'[thousands]}"


def size(size_bytes: int) -> str:
    """Return a length in bytes, KiB, MiB or GiB."""
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size_bytes} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def headline(report: RunReport) -> str:
    """Return the verdict in a few words."""
    if report.budget is not None and not report.budget.limits:
        return f"Budget {'missed' if report.budget.misses else 'kept'}: counted, not measured"
    return _HEADLINES[report.verdict]


def tone(report: RunReport) -> str:
    """Return the CSS classes of the verdict banner; `open` marks a prediction."""
    return _TONES[report.verdict]


def explanation(report: RunReport) -> str:
    """Return the verdict's figures in one or two sentences."""
    budget = report.budget
    if budget is None:
        return f"Latencies below are for {report.target.title}; nothing was asked of them."
    figures = ", ".join(f"{item.metric} {milliseconds(item.judged_ms)}" for item in budget.limits)
    sentences = [f"{budget.text} on {report.target.title}."]
    if figures:
        sentences.append(f"{'Measured' if budget.kind == 'measured' else 'Upper end of the prediction'}: {figures}.")
    if budget.resources:
        counted = ", ".join(f"{item.metric} {item.judged:.4g} {item.unit}" for item in budget.resources)
        sentences.append(f"Counted, not measured: {counted} of weights and the largest input and output of a kernel.")
    if budget.kind == "predicted":
        sentences.append("No device was timed.")
    return " ".join(sentences)


def gain_sentence(gain: PairedGain, task: TaskFacts) -> str:
    """Return how the distilled student compares with the one trained alone, seed by seed."""
    total = len(gain.differences)
    better = sum(item.value > 0 for item in gain.differences)
    deviation = f" ± {spread(gain.std, task)}" if gain.std is not None else ""
    return (
        f"Distilled minus alone: {difference(gain.mean, task)}{deviation}, better in {better} of {total} paired seeds."
    )


def _exponent(value: float) -> int:
    return int(f"{abs(value):.2e}".partition("e")[2])
