import dataclasses
import json
from itertools import cycle

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.core.artifacts import FileRef, OnnxModel, to_json
from edgekd.core.errors import BuildError, ConfigError
from edgekd.engine import BACKENDS, BuildOptions, FakeRunner, InputShape
from edgekd.profile import FakeHost, HostState, measure
from edgekd.profile.latency import machine_warnings
from edgekd.targets import get_target

INPUTS = np.zeros((2, 1, 2, 2), np.float32)
QUIET = HostState("fake cpu", 4, "performance", 2000.0, 0.1)


def timed_runner(host, latencies_ms, facts=None, answer=0.0):
    """Every run takes the next latency; warm-up runs take part."""
    each = cycle(latencies_ms)
    return FakeRunner(
        lambda x: np.full((len(x), 3), answer, np.float32),
        InputShape((1, 2, 2)),
        facts=facts,
        on_run=lambda: host.advance_ms(next(each)),
    )


def run(host, runner, **options):
    chosen = {"target": "cpu", "precision": "fp32", "warmup": 10, "min_samples": 100, "min_seconds": 0.0} | options
    return measure(runner, INPUTS, host=host, **chosen).report


def test_report_has_the_exact_statistics_of_the_runs():
    host = FakeHost()
    latencies = [float(value) for value in range(1, 101)]
    report = run(host, timed_runner(host, latencies), warmup=100)
    conditions = report.conditions
    assert (report.kind, report.target, report.precision, report.backend) == ("measured", "cpu", "fp32", "fake")
    assert (report.p50_ms, report.p99_ms, report.low_ms, report.high_ms) == (50.0, 99.0, 40.0, 61.0)
    assert (conditions["p90_ms"], conditions["mean_ms"], conditions["min_ms"], conditions["max_ms"]) == (
        90,
        50.5,
        1,
        100,
    )
    assert conditions["cov"] == pytest.approx(np.std(latencies, ddof=1) / 50.5)
    assert (conditions["samples"], conditions["warmup"], conditions["batch"], conditions["threads"]) == (100, 100, 2, 1)
    assert conditions["sampled_s"] == 5.05
    assert "96.48 %" in conditions["interval"]


def test_warm_up_is_not_sampled():
    host = FakeHost()
    report = run(host, timed_runner(host, [500.0] * 10 + [1.0] * 1000), warmup=10)
    assert (report.conditions["max_ms"], report.conditions["warmup"]) == (1.0, 10)


def test_warm_up_ends_by_itself_when_latency_no_longer_falls():
    host = FakeHost()
    falling = [5.0 - 0.05 * run for run in range(80)]
    report = run(host, timed_runner(host, falling + [1.0] * 5000), warmup=None)
    assert 80 < report.conditions["warmup"] < 130
    assert (report.conditions["max_ms"], report.conditions["warnings"]) == (1.0, [])


def test_a_warm_up_that_never_settles_is_cut_and_said():
    host = FakeHost()
    report = run(host, timed_runner(host, [1e6 * 0.99**run for run in range(900)]), warmup=None, max_seconds=60e3)
    assert any("still falling when the warm-up ended after 60000 s" in text for text in report.conditions["warnings"])


def test_soak_runs_before_the_first_sample_and_shows_what_heat_did():
    host = FakeHost()
    latencies = [1.0] * 30 + [1.0] * 1000 + [1.5] * 1000 + [2.0] * 1000 + [2.5] * 4000
    report = run(host, timed_runner(host, latencies), warmup=30, soak_s=4.5)
    conditions = report.conditions
    assert (conditions["soak_s"], conditions["soak_runs"]) == (4.5, 3000)
    assert (conditions["soak_start_p50_ms"], conditions["soak_end_p50_ms"]) == (1.0, 2.0)
    assert (report.p50_ms, conditions["min_ms"]) == (2.5, 2.5)
    assert "soak_s" not in run(host, timed_runner(host, [1.0])).conditions


def test_latency_that_moves_while_it_is_measured_is_warned_of():
    host = FakeHost()
    report = run(host, timed_runner(host, [1.0] * 60 + [1.2] * 60), warmup=10, min_samples=100)
    assert any("from 1 to 1.2 ms while it was measured (+20.0 %)" in text for text in report.conditions["warnings"])


def test_rare_percentiles_come_with_intervals_and_only_from_enough_samples():
    host = FakeHost()
    few = run(host, timed_runner(host, [1.0]), min_samples=1000).conditions
    assert (set(few["intervals_ms"]), "p999_ms" in few) == ({"p50", "p90", "p99"}, False)
    many = run(host, timed_runner(host, [1.0] * 99 + [9.0]), min_samples=4000).conditions
    assert many["p999_ms"] == 9.0
    assert many["intervals_ms"]["p99"] == [1.0, 9.0]


def test_every_sample_is_kept_with_its_start():
    host = FakeHost()
    timing = measure(
        timed_runner(host, [2.0]),
        INPUTS,
        target="cpu",
        precision="fp32",
        warmup=1,
        min_samples=50,
        min_seconds=0.0,
        host=host,
    )
    assert timing.samples_ms == (2.0,) * 50
    assert np.diff(timing.starts_ms).tolist() == [2.0] * 49


def test_throttling_and_a_gpu_clock_that_fell_are_warned_of():
    states = iter(
        [
            dataclasses.replace(QUIET, temperature_c=50.0, throttle_events=7, gpu_clock_mhz=1300.0),
            dataclasses.replace(QUIET, temperature_c=92.5, throttle_events=12, gpu_clock_mhz=900.0),
        ]
    )
    host = FakeHost(lambda: next(states))
    conditions = run(host, timed_runner(host, [1.0])).conditions
    assert (conditions["temperature_c_before"], conditions["temperature_c_after"]) == (50.0, 92.5)
    text = " ".join(conditions["warnings"])
    assert "throttled 5 times" in text
    assert "GPU clock fell from 1300 to 900 MHz" in text
    silent = FakeHost()
    assert "temperature_c_after" not in run(silent, timed_runner(silent, [1.0])).conditions


def test_outliers_are_never_dropped():
    host = FakeHost()
    report = run(host, timed_runner(host, [1.0] * 30 + [1000.0] + [1.0] * 1000), warmup=10)
    assert report.conditions["max_ms"] == 1000.0
    assert report.conditions["mean_ms"] == pytest.approx((99 + 1000) / 100)
    assert report.p50_ms == 1.0


def test_sampling_goes_on_until_both_minima_are_reached():
    host = FakeHost()
    assert run(host, timed_runner(host, [1.0]), min_seconds=0.5).conditions["samples"] == 500
    assert run(host, timed_runner(host, [10.0]), min_seconds=0.5).conditions["samples"] == 100


def test_sampling_stops_at_the_maximum_and_says_so():
    host = FakeHost()
    report = run(host, timed_runner(host, [100.0]), min_samples=300, max_seconds=2.0)
    assert report.conditions["samples"] == 20
    assert "only 20 of 300 samples were taken" in report.conditions["warnings"]


def test_slow_networks_get_six_samples_and_a_short_warm_up():
    host = FakeHost()
    report = run(host, timed_runner(host, [5000.0]), max_seconds=8.0)
    assert (report.conditions["samples"], report.conditions["warmup"]) == (6, 2)


def test_one_run_checks_the_answer_even_without_warm_up():
    host = FakeHost()
    assert run(host, timed_runner(host, [1.0]), warmup=0).conditions["warmup"] == 1
    for answer in (np.nan, np.inf):
        with pytest.raises(BuildError, match="NaN or infinite"):
            run(host, timed_runner(host, [1.0], answer=answer), warmup=0)


def test_quiet_measurements_have_no_warnings():
    host = FakeHost(lambda: QUIET)
    assert run(host, timed_runner(host, [1.0, 1.1])).conditions["warnings"] == []


@pytest.mark.parametrize(("latencies", "is_noisy"), [([1.0] * 9 + [3.0], True), ([1.0, 1.5], False)])
def test_high_variation_is_warned_of(latencies, is_noisy):
    host = FakeHost()
    warnings = run(host, timed_runner(host, latencies)).conditions["warnings"]
    assert any("coefficient of variation" in warning for warning in warnings) is is_noisy


def test_machine_state_is_recorded_before_and_after_and_judged():
    states = iter(
        [HostState("fake cpu", 4, "performance", 2000.0, 3.5), HostState("fake cpu", 4, "powersave", 1500.0, 4.0)]
    )
    host = FakeHost(lambda: next(states))
    conditions = run(host, timed_runner(host, [1.0])).conditions
    expected = {
        "cpu_model": "fake cpu",
        "logical_cpus": 4,
        "governor_before": "performance",
        "governor_after": "powersave",
        "clock_mhz_before": 2000.0,
        "clock_mhz_after": 1500.0,
        "load_1min_before": 3.5,
        "load_1min_after": 4.0,
    }
    assert {name: conditions[name] for name in expected} == expected
    text = " ".join(conditions["warnings"])
    assert "load average 3.5 before measuring leaves less than 1 of 4 CPUs free" in text
    assert "clock fell from 2000 to 1500 MHz" in text
    assert "governor changed from performance to powersave" in text


@pytest.mark.parametrize(
    ("busy", "threads", "says"),
    [
        (3.5, 1, "3.5 of 4 CPUs were busy with other work before measuring, which needs 1"),
        (3.2, 1, ""),
        (2.5, 2, "2.5"),
    ],
)
def test_what_others_do_counts_where_it_is_known_and_not_the_load_average(busy, threads, says):
    before = dataclasses.replace(QUIET, busy_cpus=busy, load_1min=9.0)
    text = " ".join(machine_warnings(before, QUIET, threads))
    assert text.startswith(says) and bool(text) == bool(says) and "load average" not in text


@pytest.mark.parametrize(
    ("precision", "computed", "is_warned"),
    [
        ("fp16", {"fp32": 3}, True),
        ("fp32", {"fp32": 3}, False),
        ("int8", {"fp32": 1, "int8": 2}, False),
        ("fp16", {}, False),
    ],
)
def test_another_precision_than_asked_for_is_warned_of(precision, computed, is_warned):
    host = FakeHost()
    runner = timed_runner(host, [1.0], facts={"compute_precisions": computed})
    warnings = run(host, runner, precision=precision).conditions["warnings"]
    assert any("fp16 was asked for, but fake computes 3 in fp32" in warning for warning in warnings) is is_warned


@pytest.mark.parametrize("graph", [True, "not recorded: it waits"])
def test_whether_a_cuda_graph_was_timed_is_told(graph):
    host = FakeHost()
    assert run(host, timed_runner(host, [1.0], facts={"cuda_graph": graph})).conditions["cuda_graph"] == graph
    assert "cuda_graph" not in run(host, timed_runner(host, [1.0])).conditions


def test_lag_one_correlation_shows_dependent_samples():
    host = FakeHost()
    alternating = run(host, timed_runner(host, [1.0, 2.0])).conditions["lag1_correlation"]
    steps = run(host, timed_runner(host, [1.0] * 50 + [2.0] * 50), warmup=1).conditions["lag1_correlation"]
    constant = run(host, timed_runner(host, [1.0])).conditions["lag1_correlation"]
    assert (alternating, constant) == (pytest.approx(-0.99), 0.0)
    assert steps > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -1}, "warmup is -1"),
        ({"soak_s": -1.0}, "soak_s is -1.0"),
        ({"min_samples": 5}, "min_samples is 5, an interval needs at least 6"),
        ({"min_seconds": 3.0, "max_seconds": 2.0}, "min_seconds 3.0 and max_seconds 2.0"),
        ({"min_seconds": -1.0}, "min_seconds -1.0"),
        ({"max_seconds": 0.0}, "max_seconds 0.0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    host = FakeHost()
    with pytest.raises(ConfigError, match=message):
        run(host, timed_runner(host, [1.0]), **options)


def test_a_real_engine_is_measured_on_this_machine(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [256, 10], np.ones(2560, np.float32))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [weight],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    model = OnnxModel(FileRef.of(path), "fp32", "any", 17, "input", (1, 16, 16), "logits", 1)
    backend = BACKENDS["onnxruntime"]
    engine = backend.build(model, tmp_path, BuildOptions(get_target("cpu")))
    with backend.open(engine) as runner:
        report = measure(
            runner,
            np.ones((1, 1, 16, 16), np.float32),
            target="cpu",
            precision="fp32",
            min_samples=50,
            min_seconds=0.05,
        ).report
    conditions = report.conditions
    assert 0 < conditions["min_ms"] <= report.low_ms <= report.p50_ms <= report.high_ms <= report.p99_ms
    assert report.p99_ms <= conditions["max_ms"]
    assert (report.backend, conditions["provider"], report.parents) == (
        "onnxruntime",
        "CPUExecutionProvider",
        (engine.digest,),
    )
    assert conditions["samples"] >= 50
    assert conditions["sampled_s"] >= 0.05
    assert conditions["samples"] * conditions["mean_ms"] / 1e3 <= conditions["sampled_s"]
    json.dumps(to_json(report), allow_nan=False)
