"""Marks stand where the figures say, and a prediction never looks like a measurement."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from edgekd.report import Curve, CurvePoint, ScoreSummary
from edgekd.report.charts import LimitLine, curve_chart, has_quantity, latency_chart, score_chart, stage_colours


def _classed(picture, tag, name):
    return [item for item in ElementTree.fromstring(picture).iter(tag) if name in (item.get("class") or "").split()]


def _rows(report, kind):
    return [row for row in report.latency if row.kind == kind]


def test_score_has_a_dot_for_each_seed_at_its_figure(report):
    networks = [("teacher", report.scores.teacher), ("alone", report.scores.alone)]
    picture = score_chart([*networks, ("distilled", report.scores.distilled)], report.task)
    for role, summary in networks:
        dots = _classed(picture, "circle", role)
        assert len(dots) == len(summary.seeds)
        assert dots[0].find("title").text.startswith("seed 0: ")
    ticks = {float(t.text.split()[0]): float(t.get("x")) for t in _classed(picture, "text", "tick")}
    (low, low_x), (high, high_x) = min(ticks.items()), max(ticks.items())
    for dot, item in zip(_classed(picture, "circle", "distilled"), report.scores.distilled.seeds, strict=True):
        expected = low_x + (100 * item.value - low) / (high - low) * (high_x - low_x)
        assert float(dot.get("cx")) == pytest.approx(expected, abs=0.05)


def test_score_joins_only_the_two_students_and_only_equal_seeds(report):
    alone = ScoreSummary.of("net", "test", {0: 0.9, 1: 0.91, 8: 0.92})
    rows = [("teacher", report.scores.distilled), ("alone", alone), ("distilled", report.scores.distilled)]
    assert len(_classed(score_chart(rows, report.task), "line", "pair")) == 2
    assert not _classed(score_chart(rows[:2], report.task), "line", "pair")


def test_score_of_equal_seeds_is_drawn(report):
    summary = ScoreSummary.of("net", "test", {0: 1.0, 1: 1.0})
    assert len(_classed(score_chart([("distilled", summary)], report.task), "circle", "dot")) == 2


def test_measured_and_predicted_have_no_mark_in_common(report):
    measured = latency_chart(_rows(report, "measured"), "measured")
    predicted = latency_chart(_rows(report, "predicted"), "predicted")
    assert len(_classed(measured, "circle", "measured")) == 2
    assert len(_classed(predicted, "path", "predicted")) == 2
    assert "predicted" not in measured
    assert not re.search(r'class="[^"]*measured', predicted)
    assert "predicted, not measured" in ElementTree.fromstring(predicted).get("aria-label")


@pytest.mark.parametrize("kind", ["measured", "predicted"])
def test_chart_of_one_kind_refuses_rows_of_the_other(report, kind):
    with pytest.raises(ValueError, match="do not share a chart"):
        latency_chart(report.latency, kind)


def test_latency_marks_stand_at_their_figures(report):
    row = _rows(report, "measured")[0]
    picture = latency_chart([row], "measured", [LimitLine("budget", 0.1)])
    ticks = {float(t.text.split()[0]): float(t.get("x")) for t in _classed(picture, "text", "tick")}
    per_ms = (max(ticks.values()) - min(ticks.values())) / max(ticks)
    (disc,) = _classed(picture, "circle", "measured")
    assert float(disc.get("cx")) == pytest.approx(ticks[0.0] + row.p50_ms * per_ms, abs=0.05)
    (limit,) = _classed(picture, "line", "limit")
    assert float(limit.get("x1")) == pytest.approx(ticks[0.0] + 0.1 * per_ms, abs=0.05)
    whisker = max(float(line.get("x2")) for line in _classed(picture, "line", "measured"))
    assert whisker == pytest.approx(ticks[0.0] + row.p99_ms * per_ms, abs=0.05)


def test_limit_far_away_is_told_and_does_not_squeeze_the_chart(report):
    near = latency_chart(_rows(report, "predicted"), "predicted")
    far = latency_chart(_rows(report, "predicted"), "predicted", [LimitLine("budget p99 < 8 ms", 8.0)])
    assert not _classed(far, "line", "limit")
    assert "budget p99 &lt; 8 ms lies beyond this axis" in far
    assert [t.text for t in _classed(far, "text", "tick")] == [t.text for t in _classed(near, "text", "tick")]


def test_names_in_a_chart_are_escaped(report):
    row = _rows(report, "measured")[0].model_copy(update={"target": "<script>alert(1)</script>"})
    assert "<script" not in latency_chart([row], "measured")


def test_curves_have_one_line_for_each_stage_and_seed(report):
    for quantity in ("loss", "score"):
        picture = curve_chart(report.curves, quantity, report.task)
        assert len(_classed(picture, "polyline", "curve")) == 7
        assert len(_classed(picture, "polyline", "distilled")) == 3


def test_curve_goes_through_its_points(report):
    points = tuple(CurvePoint(epoch=epoch, loss=loss) for epoch, loss in enumerate([4.0, 2.0, 1.0]))
    picture = curve_chart([Curve(stage="alone", seed=0, points=points)], "loss", report.task)
    (line,) = _classed(picture, "polyline", "alone")
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in line.get("points").split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert (y1 - y0) == pytest.approx(2 * (y2 - y1), abs=0.2)


def test_wide_loss_is_drawn_on_a_log_axis(report):
    points = tuple(CurvePoint(epoch=epoch, loss=loss) for epoch, loss in enumerate([100.0, 10.0, 1.0, 0.1]))
    (line,) = _classed(curve_chart([Curve(stage="x", seed=0, points=points)], "loss", report.task), "polyline", "curve")
    heights = [float(pair.split(",")[1]) for pair in line.get("points").split()]
    drops = [low - high for high, low in pairwise(heights)]
    assert drops == pytest.approx([drops[0]] * 3, abs=0.2)


def test_one_epoch_is_a_dot_and_missing_score_is_left_out(report):
    curves = [
        Curve(stage="alone", seed=0, points=(CurvePoint(epoch=0, loss=1.0),)),
        Curve(stage="alone", seed=1, points=()),
    ]
    assert len(_classed(curve_chart(curves, "loss", report.task), "circle", "dot")) == 1
    assert has_quantity(curves, "loss")
    assert not has_quantity(curves, "score")


def test_other_stages_get_colours_of_their_own():
    curves = [Curve(stage=stage, seed=0, points=()) for stage in ["branches", "teacher", "b", "branches", "c", "d"]]
    colours = stage_colours(curves)
    assert colours == {"branches": "spare0", "teacher": "teacher", "b": "spare1", "c": "spare2", "d": "spare0"}
