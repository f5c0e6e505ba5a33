"""A search whose finalists are built and measured on an attached board: a stand-in behind a real SSH server."""

import json
from types import SimpleNamespace

import pytest

from edgekd.core.artifacts import FileRef, LatencyReport, TrainedModel
from edgekd.core.budget import parse_budget
from edgekd.core.errors import BudgetExceeded, BuildError, ConfigError, TargetError
from edgekd.latency import predict
from edgekd.models import spec_for
from edgekd.pipeline.candidates import kernels_of
from edgekd.pipeline.config import load_config
from edgekd.pipeline.finalists import finals_of
from edgekd.pipeline.found import read_found
from edgekd.pipeline.gauges import BoardGauge
from edgekd.pipeline.run import RunRequest
from edgekd.pipeline.search_report import document_of
from edgekd.pipeline.searching import search
from edgekd.report import search_page
from edgekd.search import Cost, TrialRecord
from edgekd.targets import get_target
from tests.boards.conftest import bench, keys_folder  # noqa: F401 - fixtures
from tests.pipeline.test_searching import SMALL

pytest.importorskip("optuna", reason="extra search is not installed")
TARGET = "jetson-orin-nx-16gb"


@pytest.fixture
def config(bench):  # noqa: F811
    bench.board.behave(layer_type="FP16")

    def make(budget, **changes):
        wanted = {
            **SMALL["search"],
            "space": {**SMALL["search"]["space"], "families": ["resnet"]},
            "device": f"127.0.0.1:{bench.wire.port}",
            "known_hosts": str(bench.keys.known_hosts),
            "identity": str(bench.keys.identity),
            **changes,
        }
        return load_config(None, flags={**SMALL, "target": TARGET, "budget": budget, "search": wanted}, overrides=())

    return make


@pytest.mark.slow
def test_finalists_are_measured_on_the_board_and_judged_by_that(bench, config, tmp_path):  # noqa: F811
    settings = config("p99<2ms, memory<1MB, energy<50mJ")
    result = search(settings, RunRequest(tmp_path, ""))
    assert len(result.finals.finalists) == 2
    for finalist in result.finals.finalists:
        latency = finalist.cost.latency
        assert (latency.kind, latency.target, latency.precision) == ("measured", TARGET, "fp16")
        assert latency.p50_ms == pytest.approx(1.1)  # what the stand-in's trtexec says
        # 5.004 W of the stand-in's tegrastats, an inference every 2 ms of its times.
        assert finalist.cost.figures["energy"] == pytest.approx(5.004 * 2, rel=0.05)
    builds = len(bench.board.calls("--onnx"))
    assert builds == 2
    # Predictions were corrected by what was measured.
    gauge = result.finals.gauge
    graph = kernels_of(_spec(result, 0))
    predicted = predict(graph, get_target(TARGET), "fp16")
    corrected = gauge.expected(graph)
    assert corrected.p50_ms / predicted.p50_ms == pytest.approx(corrected.conditions["corrected_by"], rel=1e-3)
    assert corrected.kind == "predicted" and corrected.conditions["corrected_from"] == 2
    document = json.loads(json.dumps(document_of(settings, result), allow_nan=False))
    assert document["measured_on"] == settings.search.device
    ratio = document["learnt"]["measured_over_predicted"][result.finals.finalists[0].cost.name]
    assert ratio == pytest.approx(1.1 / predicted.p50_ms, rel=1e-3)
    assert "measured" in search_page(document)
    # The same command again measures nothing again.
    search(settings, RunRequest(tmp_path, ""))
    assert len(bench.board.calls("--onnx")) == builds


def _spec(result, place):
    return read_found(result.finals.finalists[place].file).spec


class _Gauge:
    def __init__(self, measured):
        self.measured, self.learnt, self.facts = measured, [], {}

    def expected(self, graph):
        return _report("predicted", 0.5)

    def measure(self, spec):
        if isinstance(self.measured, Exception):
            raise self.measured
        return self.measured

    def learn(self, name, graph, report):
        self.learnt.append(report)


def _report(kind, p50_ms, **conditions):
    figures = {"p50_ms": p50_ms, "p99_ms": 1.1 * p50_ms, "low_ms": 0.9 * p50_ms, "high_ms": 1.1 * p50_ms}
    return LatencyReport(kind, TARGET, "fp16", "x", **figures, conditions=conditions)


def _finals(gauge, budget, tmp_path):
    spec = spec_for("resnet", in_channels=1, num_classes=10, resolution=8, mean=(0.5,), std=(0.5,), depth=8, width=4)
    cost = Cost(spec.name, 1, 1, 1000, _report("predicted", 0.5), is_measured_later=True)
    candidates = SimpleNamespace(
        cost=lambda point: cost, at=lambda point: SimpleNamespace(spec=spec), start_of=lambda point: {}
    )
    context = SimpleNamespace(
        config=SimpleNamespace(search=SimpleNamespace(finalists=1)),
        budget=parse_budget(budget),
        note=lambda stage, message: None,
        noun=lambda kind, stage, inputs, make: make(),
    )
    record = TrialRecord(0, "trained", {"family": "resnet"}, 0.5, 1, {1: 0.5}, cost.document(), (), "w", "")
    teacher = TrainedModel("teacher", spec, FileRef("x", "0" * 64, 1), {}, "plain", 0)
    return finals_of([record], candidates, context, tmp_path, gauge=gauge, teacher=teacher)


def test_a_student_that_cannot_be_built_is_refused_and_says_why(tmp_path):
    with pytest.raises(BudgetExceeded, match="it cannot be built there: no kernel for node Conv_3"):
        _finals(_Gauge(BuildError("no kernel for node Conv_3")), "p99<2ms", tmp_path)
    with pytest.raises(
        TargetError, match="gone"
    ):  # nothing to do with this student: the search stops and goes on later
        _finals(_Gauge(TargetError("gone")), "p99<2ms", tmp_path)


def test_a_student_that_can_only_miss_is_not_built(tmp_path):
    gauge = _Gauge(AssertionError("it was measured"))
    with pytest.raises(BudgetExceeded, match="expected, predicted, not measured: p99 is 0.55 ms, the budget is 0.4 ms"):
        _finals(gauge, "p99<0.4ms", tmp_path)
    with pytest.raises(AssertionError, match="it was measured"):  # its lower end is 0.45: it may keep 0.5
        _finals(gauge, "p99<0.5ms", tmp_path)


def test_energy_is_judged_where_it_was_measured_and_a_miss_where_it_was_not(tmp_path):
    gauge = _Gauge(_report("measured", 0.7, energy_mj=10.0))
    assert _finals(gauge, "p99<2ms, energy<12mJ", tmp_path).finalists[0].cost.figures["energy"] == 10.0
    assert gauge.learnt == [gauge.measured]
    with pytest.raises(BudgetExceeded, match="measured: energy is 10 mJ, the budget is 5 mJ"):
        _finals(gauge, "p99<2ms, energy<5mJ", tmp_path)
    with pytest.raises(BudgetExceeded, match="energy was not measured, the budget is energy<5mJ"):
        _finals(_Gauge(_report("measured", 0.7)), "p99<2ms, energy<5mJ", tmp_path)


def test_another_board_is_noticed_before_anything_is_trained(bench, config, tmp_path):  # noqa: F811
    settings = config("p99<2ms").model_copy(update={"target": "jetson-orin-nano-8gb"})
    with pytest.raises(TargetError, match="jetson-orin-nano-8gb"):
        search(settings, RunRequest(tmp_path, ""))
    assert not (tmp_path / "teacher").exists()


def test_this_cpu_is_no_board(config, tmp_path):
    settings = config("p99<1s", calibration=6).model_copy(update={"target": "cpu"})
    with pytest.raises(ConfigError, match="target cpu is measured here: leave search.device out"):
        search(settings, RunRequest(tmp_path, ""))


def test_predictions_follow_the_mean_ratio_of_what_was_measured(tmp_path):
    target = get_target(TARGET)
    gauge = BoardGauge(None, target, "fp16", tmp_path, None, None, None)
    spec = spec_for("resnet", in_channels=1, num_classes=10, resolution=8, mean=(0.5,), std=(0.5,))
    graph = kernels_of(spec)
    predicted = predict(graph, target, "fp16")
    assert gauge.expected(graph) == predicted
    gauge.learn("one", graph, _report("measured", 2 * predicted.p50_ms))
    gauge.learn("two", graph, _report("measured", 8 * predicted.p50_ms))
    corrected = gauge.expected(graph)  # the mean of ratios is the geometric one
    for name in ("p50_ms", "p99_ms", "low_ms", "high_ms"):
        assert getattr(corrected, name) == pytest.approx(4 * getattr(predicted, name))
    assert (corrected.kind, corrected.conditions["corrected_from"]) == ("predicted", 2)
