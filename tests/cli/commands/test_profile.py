"""Profile measures, never passes a prediction off as a measurement, and closes the loop with its exit code."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
QUICK = ("--min-seconds", "0", "--min-samples", "60")


def test_measured_latency_agrees_with_a_loop_of_ones_own(edgekd, write_onnx, tmp_path):
    path = write_onnx(tmp_path / "a.onnx", shape=(64, 3, 128, 128))
    latency = json.loads(edgekd("profile", path, *QUICK, "--json").stdout)["latency"]
    session = onnxruntime.InferenceSession(str(path))
    inputs = np.random.default_rng(0).random((64, 3, 128, 128), dtype=np.float32)
    samples_ms = []
    for _ in range(60):
        start = time.perf_counter()
        session.run(None, {"in0": inputs})
        samples_ms.append(1e3 * (time.perf_counter() - start))
    assert latency["kind"] == "measured"
    assert 0.2 < latency["p50_ms"] / np.median(samples_ms) < 5
    assert latency["conditions"]["samples"] >= 60
    assert latency["conditions"]["batch"] == 64


@pytest.mark.parametrize(("budget", "code", "is_kept"), [("p99<60s", 0, True), ("p99<1us, p50<60s", 3, False)])
def test_measured_budget_decides_the_exit_code(edgekd, net, budget, code, is_kept):
    result = edgekd("profile", net.onnx, "--budget", budget, *QUICK, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == code
    assert document["verdict"]["is_kept"] is is_kept
    assert document["verdict"]["kind"] == "measured"
    assert len(document["verdict"]["misses"]) == (0 if is_kept else 1)


def test_real_process_exits_3_when_the_budget_is_missed(net):
    code = "from edgekd.cli.main import main; main()"
    command = [sys.executable, "-c", code, "profile", str(net.onnx), "--budget", "p50<1us", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "budget p50<0.001ms: MISSED\n  cpu, measured: p50 is" in done.stdout
    assert "error" not in done.stderr


def test_text_says_measured_and_how(edgekd, net):
    text = edgekd("profile", net.onnx, "--budget", "p99<60s", "--batch", "2", *QUICK).stdout
    assert "on cpu, measured by onnxruntime" in text
    assert "batch 2, threads 1, samples" in text
    assert "kept (measured)" in text


def test_prediction_is_called_one(edgekd, net):
    text = edgekd("profile", net.onnx, "--target", "jetson-orin", "--budget", "p99<60s").stdout
    assert "on jetson-orin, predicted, not measured by" in text
    assert "kept (predicted)" in text
    document = json.loads(edgekd("profile", net.onnx, "--target", "jetson-orin", "--json").stdout)
    assert document["latency"]["kind"] == "predicted"
    assert document["latency"]["low_ms"] < document["latency"]["p50_ms"] < document["latency"]["high_ms"]
    assert (document["budget"], document["verdict"]) == (None, None)


def test_predicted_miss_exits_3_and_says_predicted(edgekd, net):
    result = edgekd("profile", net.onnx, "--target", "jetson-orin", "--budget", "p99<1us")
    assert result.exit_code == 3
    assert "predicted, not measured" in result.stdout.splitlines()[-1]


def test_open_image_sizes_need_a_shape(edgekd, write_onnx, tmp_path):
    path = write_onnx(tmp_path / "a.onnx", shape=("B", 3, "H", "W"))
    assert edgekd("profile", path).exit_code == 2
    result = edgekd("profile", path, "--shape", "3,16,24", *QUICK)
    assert result.exit_code == 0, result.output
    for text in ("3,16", "3,16,x", "3,0,16", ""):
        assert "C,H,W" in edgekd("profile", path, "--shape", text).stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--budget", "p98<8ms"), 2, "'p98' is none of"),
        (("--budget", ""), 2, "is not of the form p99<8ms"),
        (("--target", "cpo"), 2, "unknown target 'cpo'"),
        (("--shape", "3,9,9"), 2, "cannot make"),
    ],
)
def test_wrong_request_is_one_message(edgekd, net, words, code, says):
    result = edgekd("profile", net.onnx, *words)
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr


def test_a_clause_nobody_can_judge_is_refused_and_each_other_has_its_own_line(edgekd, net):
    result = edgekd("profile", net.onnx, "--budget", "p99<9s, energy<1J")
    assert (result.exit_code, "energy (energy<1000mJ) cannot be known on cpu" in result.stderr) == (2, True)
    words = ("profile", net.onnx, "--budget", "p50<9s, p99<1us", "--min-samples", 6, "--min-seconds", 0)
    missed = edgekd(*words)
    assert missed.exit_code == 3
    assert "  p50<9000ms: kept" in missed.stdout
    clauses = json.loads(edgekd(*words, "--json").stdout)["verdict"]["clauses"]
    assert [(item["clause"]["metric"], item["value"] < item["clause"]["limit"]) for item in clauses] == [
        ("p50", True),
        ("p99", False),
    ]
