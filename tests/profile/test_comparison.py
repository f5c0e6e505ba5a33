import dataclasses
import json

import numpy as np
import pytest

from edgekd.core.artifacts import LatencyReport
from edgekd.core.errors import DataError
from edgekd.profile import Profile, compare_profiles, document_of, profile_from_document, read_profile, summarise
from edgekd.profile.comparison import bootstrap_ratio
from edgekd.profile.layers import measured_layer
from edgekd.profile.power import PowerSample, energy_of


def profile(samples, *, layers=(), keeps_samples=True, target="cpu", **conditions):
    summary = summarise(samples)
    report = LatencyReport(
        "measured", target, "fp32", "onnxruntime", summary.p50_ms, summary.p99_ms, summary.low_ms, summary.high_ms,
        {"mean_ms": summary.mean_ms, "p90_ms": summary.p90_ms, "batch": 1, **conditions},
    )  # fmt: skip
    return Profile("net.onnx", report, tuple(samples) if keeps_samples else (), layers=tuple(layers))


def noisy(median, count=500, seed=0, spread=0.05):
    return (median * np.random.default_rng(seed).lognormal(0, spread, count)).tolist()


def metric(comparison, name):
    return next(one for one in comparison.metrics if one.metric == name)


def test_the_ratio_of_medians_lies_in_its_interval():
    found = compare_profiles(profile(noisy(2.0)), profile(noisy(2.6, seed=1)))
    p50 = metric(found, "p50_ms")
    assert p50.low < 1.3 < p50.high
    assert p50.high - p50.low < 0.06
    assert (found.verdict, p50.is_sure) == ("slower", True)
    assert [one.metric for one in found.metrics] == ["p50_ms", "p90_ms", "p99_ms", "mean_ms"]


@pytest.mark.parametrize(
    ("grows", "allowed", "verdict"),
    [(1.3, 0.05, "slower"), (1.3, 0.5, "kept"), (0.5, 0.0, "kept"), (1.02, 0.05, "kept")],
)
def test_verdict(grows, allowed, verdict):
    assert compare_profiles(profile(noisy(1.0)), profile(noisy(grows, seed=1)), allowed=allowed).verdict == verdict


def test_growth_that_may_be_chance_is_unclear():
    first = [1.0, 1.5] * 6
    second = [1.1, 1.4] * 6
    found = compare_profiles(profile(first), profile(second), allowed=0.0)
    assert metric(found, "p50_ms").ratio > 1
    assert found.verdict == "unclear"


def autocorrelated(rng, count):
    noise, values = rng.normal(0, 0.02, count), np.zeros(count)
    for index in range(1, count):
        values[index] = 0.6 * values[index - 1] + noise[index]
    return np.exp(values)


def test_equal_machines_are_rarely_called_different_though_runs_resemble_their_neighbours():
    rng = np.random.default_rng(0)
    median = lambda draws: np.quantile(draws, 0.5, axis=1, method="inverted_cdf")  # noqa: E731
    wrong = 0
    for seed in range(100):
        low, high = bootstrap_ratio(autocorrelated(rng, 300), autocorrelated(rng, 300), median, seed=seed)
        wrong += not low <= 1 <= high
    assert wrong / 100 < 0.14  # draws of single runs would give about 0.25


def test_rare_percentiles_have_no_interval_without_samples_for_it():
    assert metric(compare_profiles(profile(noisy(1.0, 300)), profile(noisy(1.0, 300))), "p99_ms").low is None
    assert metric(compare_profiles(profile(noisy(1.0, 400)), profile(noisy(1.0, 400))), "p99_ms").low is not None


def test_without_samples_the_intervals_of_both_sides_bound_the_ratio():
    first, second = profile(noisy(1.0), keeps_samples=False), profile(noisy(1.3, seed=1))
    found = compare_profiles(first, second)
    p50 = metric(found, "p50_ms")
    assert p50.low == second.report.low_ms / first.report.high_ms
    assert p50.high == second.report.high_ms / first.report.low_ms
    assert "interval of each side" in found.interval
    assert found.verdict == "slower"


def layers_of(**times):
    return [measured_layer(name, time, sum(times.values()), "Conv", [f"m.{name}/Conv"]) for name, time in times.items()]


def test_layers_are_listed_by_how_much_they_changed():
    first, second = layers_of(a=1.0, b=2.0, c=3.0), layers_of(a=1.1, b=5.5, d=0.5)
    found = compare_profiles(profile(noisy(1.0), layers=first), profile(noisy(1.0), layers=second))
    assert found.layers_are == "layers"
    assert [(one.name, one.before_ms, one.after_ms) for one in found.layers] == [
        ("b", 2.0, 5.5),
        ("c", 3.0, None),
        ("d", None, 0.5),
        ("a", 1.0, 1.1),
    ]
    assert [one.change_ms for one in found.layers] == pytest.approx([3.5, -3.0, 0.5, 0.1])


def test_modules_are_compared_where_layers_have_other_names():
    first = [measured_layer("old_1", 1.0, 2.0, "", ["a/Conv"]), measured_layer("old_2", 1.0, 2.0, "", ["a/Relu"])]
    second = [measured_layer("new", 3.0, 3.0, "", ["a/Conv", "a/Relu"])]
    found = compare_profiles(profile(noisy(1.0), layers=first), profile(noisy(1.0), layers=second))
    assert found.layers_are == "modules"
    assert [(one.name, one.before_ms, one.after_ms) for one in found.layers] == [("a", 2.0, 3.0)]


def test_other_conditions_and_old_warnings_are_said():
    first = profile(noisy(1.0), threads=1, warnings=["the machine was not quiet"])
    second = profile(noisy(1.0), threads=2, target="jetson-orin")
    text = "\n".join(compare_profiles(first, second).warnings)
    assert "threads differs: 1 and 2" in text
    assert "target differs: cpu and jetson-orin" in text
    assert "first: the machine was not quiet" in text


def test_energy_and_memory_are_compared():
    def powered(watts):
        samples = [PowerSample(float(t), {"VDD_IN": watts}) for t in range(3)]
        own = profile(noisy(1.0))
        return dataclasses.replace(
            own, energy=energy_of(samples, 0.0, 2.0, runs=100), memory_mb={"process_peak": watts}
        )

    found = compare_profiles(powered(5.0), powered(8.0), metric="energy_mj")
    assert metric(found, "energy_mj").ratio == pytest.approx(1.6)
    assert metric(found, "memory_process_peak_mb").after == 8.0
    assert found.verdict == "slower"


def test_predictions_and_unknown_figures_are_refused():
    measured = profile(noisy(1.0))
    predicted = dataclasses.replace(measured, report=dataclasses.replace(measured.report, kind="predicted"))
    with pytest.raises(DataError, match="predicted, not measured"):
        compare_profiles(measured, predicted)
    with pytest.raises(DataError, match="'p999_ms' is not in both profiles; they have p50_ms"):
        compare_profiles(measured, measured, metric="p999_ms")


def test_a_document_is_read_back_equal(tmp_path):
    samples = [PowerSample(float(t), {"VDD_IN": 5.0}) for t in range(3)]
    whole = dataclasses.replace(
        profile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], layers=layers_of(a=1.0)),
        energy=energy_of(samples, 0.0, 2.0, runs=100),
        memory_mb={"process_peak": 12.5},
    )
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document_of(whole)))
    assert read_profile(path) == whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"latency": None}, "no field 'latency'"),
        ({"model": 7}, "the field 'model' is missing"),
        ({"samples_ms": [1.0, "x"]}, "field 'samples_ms', 1:"),
        ({"layers": [{"name": "a"}]}, "field 'layers', 0.time_ms: Field required"),
        ({"energy": {"rails": []}}, "field 'energy', total"),
        ({"spans": [["run", 1.0]]}, "field 'spans', 0.2"),
    ],
)
def test_wrong_documents_are_refused_with_the_field(change, says):
    document = json.loads(json.dumps(document_of(profile(noisy(1.0, 10))))) | change
    with pytest.raises(DataError, match="^doc: ") as caught:
        profile_from_document(document, "doc")
    assert says in str(caught.value)


def test_altered_figures_are_refused():
    document = json.loads(json.dumps(document_of(profile(noisy(1.0, 10)))))
    document["latency"]["p50_ms"] /= 2
    with pytest.raises(DataError, match="field 'latency': .*altered"):
        profile_from_document(document, "doc")


@pytest.mark.parametrize("text", ["", "{", "\xff"])
def test_files_that_are_no_json_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="a.json"):
        read_profile(tmp_path / "a.json")
