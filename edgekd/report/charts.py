"""The charts of the page: score by seed, latency by target, training curves.

Measured and predicted latencies never share a chart, and are drawn with different marks: a filled disc on a solid line
is a measurement, a hollow diamond on a dashed line is a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.report import svg
from edgekd.report.facts import Curve, Kind, LatencyRow, ScoreSummary, TaskFacts
from edgekd.report.wording import PREDICTED, figure, metric_title, milliseconds, score

_WIDTH = 520.0
_RIGHT = _WIDTH - 32
_ROW = 46.0
_KNOWN_STAGES = ("teacher", "alone", "distilled")
_SPARE_COLOURS = 3
_LOG_RATIO = 30.0
_FAR_LIMIT = 3.0


@dataclass(frozen=True)
class LimitLine:
    """A budget limit to draw across a latency chart."""

    label: str
    limit_ms: float


def score_chart(summaries: Sequence[tuple[str, ScoreSummary]], task: TaskFacts) -> str:
    """Draw a dot for each seed and a bar for each mean; a thin line joins the same seed of neighbouring student rows.

    Args:
        summaries: Role (`teacher`, `alone`, `distilled`) and its scores, top row first.
        task: What the scores are.

    Returns:
        SVG text.
    """
    scale = _scale(task)
    values = [scale * item.value for _, summary in summaries for item in summary.seeds]
    axis = svg.linear_axis(values, start=92, end=_RIGHT, margin=0.08)
    bottom = 12 + _ROW * len(summaries)
    rows = [12 + _ROW * (index + 0.5) for index in range(len(summaries))]
    parts = _vertical_grid(axis, 8, bottom, unit=_unit(task))
    for (above, upper), (below, lower), y in zip(summaries, summaries[1:], rows, strict=False):
        if {above, below} == {"alone", "distilled"}:
            shared = sorted(upper.by_seed.keys() & lower.by_seed.keys())
            ends = [(axis.at(scale * upper.by_seed[seed]), axis.at(scale * lower.by_seed[seed])) for seed in shared]
            parts += [svg.line(start, y, end, y + _ROW, "pair") for start, end in ends]
    for (role, summary), y in zip(summaries, rows, strict=True):
        parts += _score_parts(role, summary, axis, y, task)
    label = f"{metric_title(task)}: " + ", ".join(f"{role} {score(summary.mean, task)}" for role, summary in summaries)
    return svg.picture(parts, width=_WIDTH, height=bottom + 26, label=label)


def latency_chart(rows: Sequence[LatencyRow], kind: Kind, limits: Sequence[LimitLine] = ()) -> str:
    """Draw the latencies of one kind; a limit far beyond them is written at the edge and not drawn.

    Args:
        rows: Latencies, all of `kind`.
        kind: Chooses the marks.
        limits: Budget limits to draw.

    Returns:
        SVG text.

    Raises:
        ValueError: A row is of the other kind.
    """
    if any(row.kind != kind for row in rows):
        raise ValueError("measured and predicted latencies do not share a chart")
    longest = max(figure_ms for row in rows for figure_ms in (row.p99_ms, row.high_ms))
    near = [limit for limit in limits if limit.limit_ms <= _FAR_LIMIT * longest]
    axis = svg.linear_axis([0.0, longest, *(limit.limit_ms for limit in near)], start=18, end=_RIGHT)
    top = 10 + 16 * len(limits)
    bottom = top + _ROW * len(rows)
    parts = _vertical_grid(axis, top, bottom, unit=" ms")
    for index, limit in enumerate(limits):
        parts += _limit_parts(limit, axis, 16 * index + 12, bottom, is_near=limit in near)
    for index, row in enumerate(rows):
        parts += _latency_parts(row, axis, top + _ROW * index)
    label = f"Latency, {'measured' if kind == 'measured' else PREDICTED}: " + "; ".join(
        f"{row.network} {row.precision} on {row.target} {milliseconds(row.p50_ms)}" for row in rows
    )
    return svg.picture(parts, width=_WIDTH, height=bottom + 26, label=label)


def curve_chart(curves: Sequence[Curve], quantity: str, task: TaskFacts) -> str:
    """Draw one quantity over the epochs, a line for each stage and seed.

    Args:
        curves: The training curves; at least one point has the quantity.
        quantity: `"loss"` or `"score"`.
        task: What scores are.

    Returns:
        SVG text.
    """
    series = [(curve, _points(curve, quantity, _scale(task))) for curve in curves]
    series = [(curve, points) for curve, points in series if points]
    values = [value for _, points in series for _, value in points]
    is_wide = min(values) > 0 and max(values) > _LOG_RATIO * min(values)
    y_axis = (svg.log_axis if quantity == "loss" and is_wide else svg.linear_axis)(values, start=232, end=14)
    epochs = [epoch for _, points in series for epoch, _ in points]
    last = max(*epochs, min(epochs) + 1)
    x_axis = svg.Axis(min(epochs), last, 58, _RIGHT, tuple(_whole_ticks(min(epochs), last)))
    colours = stage_colours(curves)
    parts = _horizontal_grid(y_axis, unit=_unit(task) if quantity == "score" else "")
    parts += [svg.text(f"{tick:g}", x_axis.at(tick), 250, class_="tick", text_anchor="middle") for tick in x_axis.ticks]
    parts.append(svg.text("epoch", _RIGHT, 266, class_="tick", text_anchor="end"))
    for curve, points in series:
        line = [(x_axis.at(epoch), y_axis.at(value)) for epoch, value in points]
        tip = svg.tip(f"{curve.stage}, seed {curve.seed}: {figure(points[-1][1])} at epoch {points[-1][0]}")
        if len(line) == 1:
            parts.append(
                svg.element("circle", tip, cx=line[0][0], cy=line[0][1], r=3, class_=f"dot {colours[curve.stage]}")
            )
        else:
            parts.append(svg.polyline(line, f"curve {colours[curve.stage]}", tip))
    name = "Loss" if quantity == "loss" else metric_title(task)
    label = f"{name} by epoch, {len(series)} curves"
    return svg.picture(parts, width=_WIDTH, height=272, label=label)


def has_quantity(curves: Sequence[Curve], quantity: str) -> bool:
    """Say whether there is anything to draw."""
    return any(_points(curve, quantity, 1.0) for curve in curves)


def stage_colours(curves: Sequence[Curve]) -> dict[str, str]:
    """Return a CSS class for each stage, in order of appearance; the three networks keep their own."""
    others = [stage for stage in dict.fromkeys(curve.stage for curve in curves) if stage not in _KNOWN_STAGES]
    classes = {stage: f"spare{index % _SPARE_COLOURS}" for index, stage in enumerate(others)}
    return {curve.stage: classes.get(curve.stage, curve.stage) for curve in curves}


def _points(curve: Curve, quantity: str, scale: float) -> list[tuple[int, float]]:
    if quantity == "loss":
        return [(point.epoch, point.loss) for point in curve.points]
    return [(point.epoch, scale * point.val_score) for point in curve.points if point.val_score is not None]


def _scale(task: TaskFacts) -> float:
    return 100.0 if task.is_share else 1.0


def _unit(task: TaskFacts) -> str:
    return " %" if task.is_share else ""


def _whole_ticks(first: int, last: int) -> list[int]:
    ticks = svg.linear_axis([first, last], start=0, end=1).ticks
    return [int(tick) for tick in ticks if first <= tick <= last and tick == int(tick)]


def _score_parts(role: str, summary: ScoreSummary, axis: svg.Axis, y: float, task: TaskFacts) -> list[str]:
    mean = axis.at(_scale(task) * summary.mean)
    parts = [
        svg.text(role, 82, y + 4, class_="row", text_anchor="end"),
        svg.line(mean, y - 13, mean, y + 13, f"mean {role}"),
    ]
    for item in summary.seeds:
        tip = svg.tip(f"seed {item.seed}: {score(item.value, task)}")
        parts.append(svg.element("circle", tip, cx=axis.at(_scale(task) * item.value), cy=y, r=5, class_=f"dot {role}"))
    return parts


def _vertical_grid(axis: svg.Axis, top: float, bottom: float, *, unit: str) -> list[str]:
    parts = []
    for tick in axis.ticks:
        parts.append(svg.line(axis.at(tick), top, axis.at(tick), bottom, "grid"))
        parts.append(svg.text(f"{tick:g}{unit}", axis.at(tick), bottom + 17, class_="tick", text_anchor="middle"))
    return parts


def _horizontal_grid(axis: svg.Axis, *, unit: str) -> list[str]:
    parts = []
    for tick in axis.ticks:
        parts.append(svg.line(58, axis.at(tick), _RIGHT, axis.at(tick), "grid"))
        parts.append(svg.text(f"{tick:g}{unit}", 52, axis.at(tick) + 4, class_="tick", text_anchor="end"))
    return parts


def _limit_parts(limit: LimitLine, axis: svg.Axis, y: float, bottom: float, *, is_near: bool) -> list[str]:
    if not is_near:
        return [svg.text(f"{limit.label} lies beyond this axis →", _RIGHT, y, class_="limit", text_anchor="end")]
    x = axis.at(limit.limit_ms)
    is_left = x > _WIDTH / 2
    label = svg.text(
        limit.label, x + (-6 if is_left else 6), y, class_="limit", text_anchor="end" if is_left else "start"
    )
    return [svg.line(x, y - 10, x, bottom, "limit"), label]


def _latency_parts(row: LatencyRow, axis: svg.Axis, top: float) -> list[str]:
    y = top + 31
    label = svg.text(f"{row.network} {row.precision} · {row.target} · {row.backend}", 20, top + 15, class_="row")
    if row.kind == "predicted":
        return [label, *_prediction_parts(row, axis, y)]
    tip = svg.tip(f"measured: p50 {milliseconds(row.p50_ms)} ({_interval(row)}), p99 {milliseconds(row.p99_ms)}")
    x, p99 = axis.at(row.p50_ms), axis.at(row.p99_ms)
    return [
        label,
        svg.line(x, y, p99, y, "measured"),
        svg.line(p99, y - 6, p99, y + 6, "measured"),
        svg.element("circle", tip, cx=x, cy=y, r=5.5, class_="measured"),
    ]


def _prediction_parts(row: LatencyRow, axis: svg.Axis, y: float) -> list[str]:
    low, median, high, p99 = (axis.at(value) for value in (row.low_ms, row.p50_ms, row.high_ms, row.p99_ms))
    tip = svg.tip(f"{PREDICTED}: median {milliseconds(row.p50_ms)}, interval {_interval(row)}")
    p99_tip = svg.tip(f"{PREDICTED}: p99 up to {milliseconds(row.p99_ms)}")
    diamond = f"M{median:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"
    return [
        svg.line(low, y, high, y, "predicted"),
        *(svg.line(end, y - 5, end, y + 5, "predicted-end") for end in (low, high)),
        svg.element("path", tip, d=diamond, class_="predicted"),
        svg.element("rect", p99_tip, x=p99 - 3.5, y=y - 3.5, width=7, height=7, class_="predicted"),
    ]


def _interval(row: LatencyRow) -> str:
    return f"{figure(row.low_ms)} to {milliseconds(row.high_ms)}"
