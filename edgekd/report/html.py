"""`report.html`: one file that shows everything and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekd.report import charts, wording
from edgekd.report.facts import LatencyRow, ScoreSummary, SizeRow
from edgekd.report.run_report import RunReport

_TEMPLATES = Path(__file__).with_name("templates")


def render_html(report: RunReport) -> str:
    """Return the page of a run.

    Args:
        report: What the run found; every text in it is escaped.

    Returns:
        A whole HTML document with its styles and charts inside, without scripts.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plain = ("figure", "milliseconds", "percent", "count", "size", "metric_title", "condition")
    of_task = ("score", "spread", "difference", "gain_sentence", "fidelity_sentence")
    environment.filters.update({name: getattr(wording, name) for name in (*plain, *of_task)})
    return environment.get_template("report.html.j2").render(report=report, **_view(report))


def _view(report: RunReport) -> dict[str, Any]:
    from markupsafe import Markup

    networks = _networks(report)
    measured = [row for row in report.latency if row.kind == "measured"]
    predicted = [row for row in report.latency if row.kind == "predicted"]
    quantities = [name for name in ("score", "loss") if charts.has_quantity(report.curves, name)]
    return {
        "headline": wording.headline(report),
        "tone": wording.tone(report),
        "explanation": wording.explanation(report),
        "predicted_words": wording.PREDICTED,
        "networks": networks,
        "score_chart": Markup(charts.score_chart(networks, report.task)),  # noqa: S704
        "lead_latency": _lead_latency(report),
        "measured": measured,
        "doubts": wording.doubts(measured),
        "predicted": predicted,
        "measured_chart": Markup(_latency_chart(report, measured)),  # noqa: S704
        "predicted_chart": Markup(_latency_chart(report, predicted)),  # noqa: S704
        "curve_charts": [(name, Markup(charts.curve_chart(report.curves, name, report.task))) for name in quantities],  # noqa: S704
        "stage_colours": charts.stage_colours(report.curves),
        "sizes": _sizes(report),
    }


def _networks(report: RunReport) -> list[tuple[str, ScoreSummary]]:
    scores = report.scores
    named = [("teacher", scores.teacher), ("alone", scores.alone), ("distilled", scores.distilled)]
    return [(role, summary) for role, summary in named if summary is not None]


def _lead_latency(report: RunReport) -> LatencyRow | None:
    """Choose the latency to print large: of the run's target, of the chosen precision, measured before predicted."""
    chosen = report.precision.chosen if report.precision else None
    rows = [row for row in report.latency if row.network == "student" and row.target == report.target.name]
    rows.sort(key=lambda row: (row.kind != "measured", row.precision != chosen))
    return rows[0] if rows else None


def _latency_chart(report: RunReport, rows: Sequence[LatencyRow]) -> str:
    if not rows:
        return ""
    budget, kind = report.budget, rows[0].kind
    limits = [
        charts.LimitLine(f"budget {item.metric} < {item.limit_ms:g} ms on {report.target.name}", item.limit_ms)
        for item in (budget.limits if budget is not None and budget.kind == kind else ())
    ]
    return charts.latency_chart(rows, kind, limits)


def _sizes(report: RunReport) -> list[tuple[SizeRow, SizeRow | None]]:
    """Pair every student with the teacher, whose size it is compared with."""
    teacher = next((row for row in report.sizes if row.network == "teacher"), None)
    return [(row, teacher if row.network == "student" else None) for row in report.sizes]
