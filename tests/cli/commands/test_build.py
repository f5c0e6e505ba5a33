"""Build makes the engine of the target with the backend asked for, or says why not."""

import importlib.util
import json

import pytest


def test_cpu_engine_is_built_by_onnxruntime(edgekd, net, tmp_path):
    pytest.importorskip("onnxruntime")
    result = edgekd("build", net.onnx, "-o", tmp_path / "e", "--threads", "2", "--json")
    engine = json.loads(result.stdout)["engine"]
    assert (engine["backend"], engine["target"], engine["precision"]) == ("onnxruntime", "cpu", "fp32")
    assert engine["facts"]["threads"] == 2
    assert (tmp_path / "e" / "build.json").is_file()


def test_gpu_engine_is_really_built_without_a_gpu(edgekd, net, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    result = edgekd("build", net.onnx, "--target", "rtx-4090", "-o", tmp_path / "e")
    assert result.exit_code == 0, result.output
    assert "fp32 by tensorrt_rtx for rtx-4090 (sm_89)" in result.stdout
    assert "build/tensorrt_rtx: done" in result.stderr
    assert (tmp_path / "e" / "model.engine").stat().st_size > 10_000


def test_quiet_build_shows_no_progress(edgekd, net, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    result = edgekd("--quiet", "build", net.onnx, "--target", "rtx-4090", "-o", tmp_path / "e")
    assert (result.exit_code, result.stderr) == (0, "")


def test_backend_that_is_not_installed_exits_5(edgekd, net, tmp_path):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    result = edgekd("build", net.onnx, "--target", "jetson-orin", "-o", tmp_path / "e")
    assert result.exit_code == 5
    assert "edgekd[trt]" in result.stderr
    assert not (tmp_path / "e").exists()


def test_dry_run_names_the_usual_backend_and_writes_nothing(edgekd, net, tmp_path):
    result = edgekd("build", net.onnx, "-o", tmp_path / "e", "--dry-run")
    assert result.exit_code == 0
    assert "by onnxruntime for cpu" in result.stdout
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--backend", "tensorrt-rtx"), 2, "did you mean tensorrt_rtx"),
        (("--target", "rtx4090"), 2, "did you mean rtx-4090"),
        (("--target", "rtx-4090", "--backend", "onnxruntime"), 4, "does not run on rtx-4090"),
    ],
)
def test_wrong_request_is_one_message(edgekd, net, tmp_path, words, code, says):
    result = edgekd("build", net.onnx, "-o", tmp_path / "e", *words)
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr


def test_filled_folder_is_kept_unless_forced(edgekd, net, tmp_path):
    (tmp_path / "build.json").write_text("mine")
    assert edgekd("build", net.onnx, "-o", tmp_path).exit_code == 2
    assert (tmp_path / "build.json").read_text() == "mine"
    assert edgekd("build", net.onnx, "-o", tmp_path, "--force").exit_code == 0
    assert json.loads((tmp_path / "build.json").read_text())


def test_damaged_model_is_refused(edgekd, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nonsense")
    result = edgekd("build", tmp_path / "a.onnx", "-o", tmp_path / "e")
    assert result.exit_code == 2
    assert "is not an ONNX model" in result.stderr
