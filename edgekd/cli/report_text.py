"""A run's report as text for the terminal, in the words of the HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.report import RunReport, ScoreSummary, TaskFacts


def report_text(report: RunReport) -> str:
    """Return the report's figures in a few tables, its verdict last.

    Args:
        report: What a run found.

    Returns:
        Lines; every latency is labelled measured, or predicted, not measured.
    """
    parts = (_scores(report), _latency(report), _precision(report), _parity(report), _verdict(report))
    return "\n\n".join(part for part in parts if part)


def _scores(report: RunReport) -> str:
    from edgekd.report.wording import fidelity_sentence, gain_sentence

    named = {"teacher": report.scores.teacher, "alone": report.scores.alone, "distilled": report.scores.distilled}
    task = report.task
    rows = [_score_row(role, summary, task) for role, summary in named.items() if summary is not None]
    table = format_table(("network", "architecture", task.metric, "std", "seeds", "split"), rows)
    sentences = [gain_sentence(report.gain, task)] if report.gain is not None else []
    sentences += [fidelity_sentence(report.fidelity, task)] if report.fidelity else []
    return "\n".join([table, *sentences])


def _score_row(role: str, summary: ScoreSummary, task: TaskFacts) -> tuple[str, ...]:
    from edgekd.report.wording import score, spread

    deviation = "-" if summary.std is None else spread(summary.std, task)
    return (role, summary.net, score(summary.mean, task), deviation, str(len(summary.seeds)), summary.split)


def _latency(report: RunReport) -> str:
    from edgekd.report.wording import PREDICTED, doubts, figure

    rows = [
        (
            row.target,
            row.network,
            row.precision,
            PREDICTED if row.kind == "predicted" else "measured",
            figure(row.p50_ms),
            f"{figure(row.low_ms)}..{figure(row.high_ms)}",
            figure(row.p99_ms),
        )
        for row in report.latency
    ]
    if not rows:
        return ""
    table = format_table(("target", "network", "precision", "kind", "p50 ms", "interval", "p99 ms"), rows)
    return "\n".join([table, *(f"doubtful: {doubt}" for doubt in doubts(report.latency))])


def _precision(report: RunReport) -> str:
    if report.precision is None:
        return ""
    rows = [
        (row.precision, row.flavour, "taken" if row.accepted else "refused", row.reason)
        for row in report.precision.verdicts
    ]
    chosen = f"shipped: {report.precision.chosen} ({report.precision.flavour})"
    return f"{format_table(('precision', 'flavour', 'verdict', 'reason'), rows)}\n{chosen}"


def _parity(report: RunReport) -> str:
    if report.parity is None:
        return ""
    outcome = "holds" if report.parity.is_ok else "BROKEN"
    return (
        f"parity torch / ONNX {outcome}: largest relative difference {report.parity.max_rel:.3g} "
        f"(tolerance {report.parity.tolerance:g}) on {report.parity.n} inputs"
    )


def _verdict(report: RunReport) -> str:
    from edgekd.report.wording import explanation, headline

    misses = report.budget.misses if report.budget is not None else ()
    return "\n".join([f"{headline(report)}. {explanation(report)}", *(f"  {miss}" for miss in misses)])
