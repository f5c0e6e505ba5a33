"""The CPU model against machines made of formulas, and against least squares by hand."""

import json
import math
import random

import pytest

from edgekd.core.errors import DataError
from edgekd.latency import CpuModel, CpuPoint, Layer, LayerGraph, calibrate_cpu, refit_cpu


def _conv(chance, kind="conv_kxk"):
    channels, side = chance.choice([16, 32, 64]), chance.choice([8, 16, 32])
    area = 9 if kind == "conv_kxk" else 1
    rows, inner = side * side, channels * area
    elems = rows * channels
    return Layer(kind, rows * channels * inner, elems, elems, channels * inner, rows, channels, inner, 1, area)


def _graph(seed):
    chance = random.Random(seed)
    kinds = ["conv_kxk", "conv_1x1"]
    layers = tuple(_conv(chance, chance.choice(kinds)) for _ in range(chance.randint(4, 30)))
    return LayerGraph(f"net{seed}", 1, layers)


def _machine_ms(graph, *, gmacs_s=40.0, floor_us=2.0):
    return 1e3 * sum(layer.macs / (gmacs_s * 1e9) + floor_us * 1e-6 for layer in graph.layers)


def _points(seeds, **machine):
    graphs = [_graph(seed) for seed in seeds]
    return [CpuPoint(one, _machine_ms(one, **machine), 2 * _machine_ms(one, **machine), one.name) for one in graphs]


@pytest.mark.parametrize("machine", [{}, {"gmacs_s": 2.0}, {"gmacs_s": 200.0, "floor_us": 20.0}])
def test_ten_networks_of_a_machine_of_formulas_predict_the_rest(machine):
    model = calibrate_cpu(_points(range(10), **machine))
    errors = []
    for seed in range(100, 140):
        graph = _graph(seed)
        errors.append(abs(math.log(model.predict(graph).p50_ms / _machine_ms(graph, **machine))))
    assert sorted(errors)[20] < 0.03 and max(errors) < 0.2


def test_predictions_are_labelled_and_their_interval_is_around_them():
    model = calibrate_cpu(_points(range(10)))
    report = model.predict(_graph(50))
    assert report.kind == "predicted" and report.target == "cpu"
    assert report.conditions["statement"] == "predicted, not measured"
    assert report.low_ms < report.p50_ms < report.high_ms < report.p99_ms
    assert report.high_ms / report.p50_ms == pytest.approx(math.exp(model.half_width_log))
    assert report.p99_ms == pytest.approx(2.0 * report.high_ms, rel=0.01)
    assert report.conditions["p99_expected_ms"] == pytest.approx(2.0 * report.p50_ms, rel=0.01)
    assert model.digest in report.parents


def test_interruptions_add_to_the_tail_of_small_networks_and_large_ones_alike():
    points = [CpuPoint(one.graph, one.p50_ms, one.p50_ms + 5.0, one.name) for one in _points(range(10))]
    expected = calibrate_cpu(points).predict(_graph(50)).conditions["p99_expected_ms"]
    assert expected == pytest.approx(_machine_ms(_graph(50)) + 5.0, rel=0.01)


def test_noise_in_the_measurements_widens_the_interval():
    chance = random.Random(0)
    noisy = [
        CpuPoint(one.graph, one.p50_ms * math.exp(chance.gauss(0, 0.2)), one.p99_ms, one.name)
        for one in _points(range(12))
    ]
    assert calibrate_cpu(noisy).half_width_log > 2 * calibrate_cpu(_points(range(12))).half_width_log


def test_errors_are_those_of_networks_left_out_of_the_fit():
    points = _points(range(9))
    spoilt = CpuPoint(points[4].graph, points[4].p50_ms * 3, points[4].p99_ms * 3, points[4].name)
    others = [*points[:4], *points[5:]]
    model = calibrate_cpu([*others, spoilt])
    alone = calibrate_cpu(others).predict(spoilt.graph).p50_ms
    assert model.errors_log[-1] == pytest.approx(math.log(alone / spoilt.p50_ms), abs=1e-6)
    assert model.half_width_log > 0.9


def test_a_refit_learns_what_was_measured_since():
    slow = {"gmacs_s": 4.0}
    model = calibrate_cpu(_points(range(8)))
    later = refit_cpu(model, _points(range(20, 50), **slow))
    graph = _graph(60)
    before, after = model.predict(graph).p50_ms, later.predict(graph).p50_ms
    true = _machine_ms(graph, **slow)
    assert abs(math.log(after / true)) < 0.3 * abs(math.log(before / true))
    again = refit_cpu(model, _points(range(8)))
    assert len(again.points) == 8 and again.thetas == pytest.approx(model.thetas)


def test_two_networks_of_equal_kernels_stay_two_points():
    points = _points(range(6))
    twin = CpuPoint(points[0].graph, 1.1 * points[0].p50_ms, points[0].p99_ms, "twin")
    assert len(refit_cpu(calibrate_cpu([*points[1:], twin]), [points[0]]).points) == 7


def test_a_model_survives_its_document():
    model = calibrate_cpu(_points(range(7)))
    again = CpuModel.of_document(json.loads(json.dumps(model.document())))
    assert again.predict(_graph(70)).p50_ms == model.predict(_graph(70)).p50_ms
    assert again.digest == model.digest
    with pytest.raises(DataError, match="cannot be read"):
        CpuModel.of_document({"thetas": {}})


def test_too_few_and_impossible_measurements_are_refused():
    with pytest.raises(DataError, match="5 measured networks are too few"):
        calibrate_cpu(_points(range(5)))
    points = _points(range(8))
    wrong = CpuPoint(points[0].graph, 0.0, 1.0, "broken")
    with pytest.raises(DataError, match="positive and finite: broken"):
        calibrate_cpu([wrong, *points[1:]])
    with pytest.raises(DataError, match="no kernels"):
        calibrate_cpu(points).predict(LayerGraph("empty", 1, ()))
