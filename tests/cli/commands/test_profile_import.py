"""Import, compare, trace and the fit of a board, end to end from files; exports made by hand, see tests/profile."""

import json

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
QUICK = ("--min-seconds", "0", "--min-samples", "60")


def times_of(median_ms, *, count=400, seed=0):
    latencies = median_ms * np.random.default_rng(seed).lognormal(0, 0.01, count)
    rows = []
    for index, latency in enumerate(latencies):
        start, end = index * 2 * median_ms, index * 2 * median_ms + latency
        rows.append(
            {
                "startEnqMs": start, "endEnqMs": start, "startH2dMs": start, "endH2dMs": start,
                "startComputeMs": start, "endComputeMs": end, "startD2hMs": end, "endD2hMs": end,
                "h2dMs": 0.0, "computeMs": latency, "d2hMs": 0.0, "latencyMs": latency,
            }
        )  # fmt: skip
    return rows


@pytest.fixture
def times(tmp_path):
    def write(name, median_ms, **options):
        path = tmp_path / name
        path.write_text(json.dumps(times_of(median_ms, **options)))
        return path

    return write


def imported(edgekd, path, net, *words):
    result = edgekd("profile", "import", path, "--target", "jetson-orin", "--model", net.onnx, *words, "--json")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_imported_times_are_a_measurement_of_that_board(edgekd, net, times, tmp_path):
    layers = tmp_path / "profile.json"
    layers.write_text(
        json.dumps([{"count": 9}, {"name": "conv1/Conv", "timeMs": 9, "averageMs": 1.0, "percentage": 100}])
    )
    path = times("times.json", 2.0)
    document = json.loads(imported(edgekd, path, net, layers, "--precision", "fp16"))
    latency = document["latency"]
    assert (latency["kind"], latency["target"], latency["precision"]) == ("measured", "jetson-orin", "fp16")
    assert latency["p50_ms"] == pytest.approx(2.0, rel=0.01)
    assert (document["schema_version"], document["model"], len(document["samples_ms"])) == (1, str(net.onnx), 400)
    assert document["layers"][0]["name"] == "conv1/Conv"


def test_a_board_is_learnt_from_imported_profiles(edgekd, times, write_onnx, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "own"))
    kept = tmp_path / "kept"
    kept.mkdir()
    for index, size in enumerate((32, 64, 96, 128, 192, 256)):
        path = write_onnx(tmp_path / f"n{index}.onnx", shape=("B", 3, size, size))
        words = ("--target", "jetson-orin", "--model", path, "--precision", "fp16", "--json")
        result = edgekd("profile", "import", times("t.json", 0.1 + 0.02 * index), *words)
        (kept / f"{index}.json").write_text(result.stdout)
    result = edgekd("latency", "fit", "--from", kept, "--target", "jetson-orin", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    edgekd("latency", "fit", "--from", kept, "--target", "jetson-orin", "--out", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").is_file()


def test_a_budget_is_held_against_it(edgekd, net, times):
    words = ("profile", "import", times("t.json", 2.0), "--target", "jetson-orin", "--model", net.onnx, "--budget")
    kept, missed = edgekd(*words, "p99<3ms"), edgekd(*words, "p99<1ms")
    assert (kept.exit_code, missed.exit_code) == (0, 3)
    assert "measured by tensorrt" in kept.stdout
    assert "MISSED" in missed.stdout


@pytest.mark.parametrize(
    ("content", "words", "code", "says"),
    [
        ("{", (), 1, "is not JSON as trtexec writes it"),
        ("[" * 100_000, (), 1, "is not JSON as trtexec writes it"),
        ('[{"startEnqMs": 1}]', (), 1, "inference 0: the field 'endEnqMs' is missing"),
        ('{"Layers": ["a"]}', (), 2, "no times are among the files"),
        (None, ("--target", "cpu"), 2, "target cpu is measured here"),
        (None, ("--target", "orim"), 2, "unknown target 'orim'"),
        (None, ("--precision", "fp12"), 2, "'fp12' is not one of"),
    ],
)
def test_wrong_files_are_one_message(edgekd, net, times, tmp_path, content, words, code, says):
    path = times("t.json", 1.0)
    if content is not None:
        path.write_text(content)
    result = edgekd("profile", "import", path, "--model", net.onnx, *(words or ("--target", "jetson-orin")))
    if words and "--target" not in words:
        result = edgekd("profile", "import", path, "--model", net.onnx, "--target", "jetson-orin", *words)
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr


def test_compare_exits_3_only_when_slower_than_allowed(edgekd, net, times, tmp_path):
    for name, median_ms, seed in (("a", 2.0, 0), ("b", 2.2, 1), ("c", 2.01, 2)):
        text = imported(edgekd, times("t.json", median_ms, seed=seed), net)
        (tmp_path / f"{name}.json").write_text(text)
    same = edgekd("profile", "compare", tmp_path / "a.json", tmp_path / "c.json")
    slower = edgekd("profile", "compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    allowed = edgekd("profile", "compare", tmp_path / "a.json", tmp_path / "b.json", "--allow", "20%")
    assert (same.exit_code, slower.exit_code, allowed.exit_code) == (0, 3, 0)
    document = json.loads(slower.stdout)
    p50 = next(one for one in document["metrics"] if one["metric"] == "p50_ms")
    assert (document["verdict"], document["judged"]) == ("slower", "p50_ms")
    assert 1.05 < p50["low"] < 1.1 < p50["high"] < 1.15
    assert "within the 5 % allowed" in same.stdout
    for text in ("a lot", "-1%"):
        assert edgekd("profile", "compare", tmp_path / "a.json", tmp_path / "c.json", "--allow", text).exit_code == 2
    (tmp_path / "c.json").write_text("[]")
    broken = edgekd("profile", "compare", tmp_path / "a.json", tmp_path / "c.json")
    assert (broken.exit_code, "no field 'latency'" in broken.stderr) == (1, True)


def test_two_measurements_of_one_network_here_compare_and_trace(edgekd, net, tmp_path):
    for name in ("a", "b"):
        trace = tmp_path / f"{name}.trace.json"
        result = edgekd("profile", net.onnx, *QUICK, "--layers", "--trace", trace, "--json")
        assert result.exit_code == 0, result.output
        (tmp_path / f"{name}.json").write_text(result.stdout)
    document, trace = json.loads((tmp_path / "a.json").read_text()), json.loads((tmp_path / "a.trace.json").read_text())
    assert sum(layer["share"] for layer in document["layers"]) == pytest.approx(1.0)
    assert len([one for one in trace["traceEvents"] if one["name"] == "run"]) == len(document["samples_ms"]) >= 60
    result = edgekd("profile", "compare", tmp_path / "a.json", tmp_path / "b.json", "--allow", "10000%", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["layers_are"]) == (0, "layers")
    assert {one["name"] for one in found["layers"]} == {layer["name"] for layer in document["layers"]}


def test_text_shows_layers_by_module_and_memory(edgekd, net):
    text = edgekd("profile", net.onnx, *QUICK, "--layers", "--soak", "0.05").stdout
    assert "modules" in text
    assert "memory: process_peak" in text
    assert "soak_s 0.05" in text


def test_energy_needs_rails_and_a_prediction_has_neither_layers_nor_trace(edgekd, net, tmp_path):
    result = edgekd("profile", net.onnx, "--energy")
    assert (result.exit_code, "no INA power rails" in result.stderr) == (5, True)
    result = edgekd("profile", net.onnx, "--target", "jetson-orin", "--layers", "--trace", tmp_path / "t.json")
    assert (result.exit_code, "--layers and --trace: latency on" in result.stderr) == (2, True)
    assert not (tmp_path / "t.json").exists()


@pytest.mark.parametrize(("budget", "code"), [("p99<9s, energy<90J", 0), ("energy<1uJ", 3)])
def test_energy_is_measured_from_rails_and_held_against_a_budget(edgekd, net, monkeypatch, budget, code):
    from edgekd.profile import Rail

    monkeypatch.setattr("edgekd.profile.require_rails", lambda: (Rail("VDD_IN", lambda: 6.0),))
    result = edgekd("profile", net.onnx, *QUICK, "--energy", "--budget", budget, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == code
    assert document["energy"]["total"]["mean_w"] == pytest.approx(6.0)
    assert document["energy"]["total_is"] == "VDD_IN"
    assert document["verdict"]["clauses"][-1]["value"] == pytest.approx(document["energy"]["total"]["gross_mj"])


def test_the_group_lists_its_commands_and_measures_by_default(edgekd, net):
    text = edgekd("profile", "--help").stdout
    for name in ("measure", "import", "compare"):
        assert f"  {name} " in text
    assert edgekd("profile", *QUICK, net.onnx).exit_code == 0
    assert "does not exist" in edgekd("profile", "nothing.onnx").stderr
