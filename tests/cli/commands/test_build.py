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


def test_a_fixed_batch_of_the_file_is_the_batch_of_the_engine(edgekd, write_onnx, tmp_path):
    pytest.importorskip("onnxruntime")
    four = write_onnx(tmp_path / "four.onnx", shape=(4, 3, 8, 8))
    result = edgekd("build", four, "-o", tmp_path / "e", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)["engine"]["facts"]
    assert (facts["min_batch"], facts["max_batch"]) == (4, 4)
    other = edgekd("build", four, "-o", tmp_path / "f", "--batch", 2)
    assert other.exit_code == 2 and "fixed batch 4, but batch 2 is asked for" in other.stderr


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


@pytest.fixture
def open_net(tmp_path):
    """A convolution whose picture may have any height and width."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "height", None])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "open", [x], [y], [weights])
    path = tmp_path / "open.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_open_dimensions_are_fixed_by_dim(edgekd, open_net, tmp_path):
    pytest.importorskip("onnxruntime")
    refused = edgekd("build", open_net, "-o", tmp_path / "e")
    assert refused.exit_code == 2 and "has shape [N, 3, height, ?]" in refused.stderr
    before = open_net.read_bytes()
    result = edgekd("build", open_net, "--dim", "height=20", "--dim", "x:3=12", "-o", tmp_path / "e", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["engine"]["facts"]["input_shape"] == [3, 20, 12]
    assert open_net.read_bytes() == before
    wrong = edgekd("build", open_net, "--dim", "depth=20", "-o", tmp_path / "f")
    assert wrong.exit_code == 2 and "has no open dimension 'depth'; open are: N, height, x:0, x:2, x:3" in wrong.stderr
    assert not (tmp_path / "f").exists()


def test_a_dry_run_with_fixed_dimensions_names_the_file_and_writes_nothing(edgekd, open_net, tmp_path):
    result = edgekd("build", open_net, "--dim", "height=20", "--dim", "x:3=12", "-o", tmp_path / "e", "--dry-run")
    assert result.exit_code == 0 and "an engine of open.onnx" in result.stdout
    assert not (tmp_path / "e").exists()


def test_fp8_of_opset_19_goes_from_export_to_a_real_engine(edgekd, net, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    import onnx

    newer, quantized = tmp_path / "newer.onnx", tmp_path / "fp8.onnx"
    onnx.save(onnx.version_converter.convert_version(onnx.load(net.onnx), 19), newer)
    words = ("--precision", "fp8", "--target", "rtx-4090", "--calibration", "digits", "--size", "64", "-o", quantized)
    assert edgekd("quantize", newer, *words).exit_code == 0
    result = edgekd("build", quantized, "--target", "rtx-4090", "-o", tmp_path / "e", "--json")
    assert result.exit_code == 0, result.stderr
    engine = json.loads(result.stdout)["engine"]
    assert engine["precision"] == "fp8" and engine["facts"]["fusion"]["compute_precisions"].get("fp8")
