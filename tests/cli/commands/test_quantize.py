"""Quantize writes the precision into a file that runs."""

import json

import numpy as np
import onnx
import onnx.version_converter
import pytest

onnxruntime = pytest.importorskip("onnxruntime")


def logits_of(path, images):
    return onnxruntime.InferenceSession(str(path)).run(None, {"input": images})[0]


def test_fp16_stores_half_the_bytes_and_nearly_the_same_logits(edgekd, net, tmp_path):
    output = tmp_path / "h.onnx"
    result = edgekd("quantize", net.onnx, "--precision", "fp16", "-o", output, "--json")
    document = json.loads(result.stdout)
    assert document["model"]["precision"] == "fp16"
    assert document["model"]["parents"] == [document["source"]["digest"]]
    weights = [t for t in onnx.load(output).graph.initializer if np.prod(t.dims) > 100]
    assert weights
    assert {t.data_type for t in weights} == {onnx.TensorProto.FLOAT16}
    images = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    expected = logits_of(net.onnx, images)
    assert np.abs(logits_of(output, images) - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("flavour", "zero_point"), [("cpu", onnx.TensorProto.UINT8), ("tensorrt", onnx.TensorProto.INT8)]
)
def test_int8_has_the_activations_of_its_runtime(edgekd, net, tmp_path, flavour, zero_point):
    output = tmp_path / "q.onnx"
    words = ("--flavour", flavour, "--calibration", "digits", "--size", "64", "-o", output)
    result = edgekd("quantize", net.onnx, *words)
    assert result.exit_code == 0, result.output
    assert f"int8 for {flavour} runtimes" in result.stdout
    graph = onnx.load(output).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in types)
    assert types[first.input[2]] == zero_point


def test_int8_without_images_is_refused(edgekd, net, tmp_path):
    result = edgekd("quantize", net.onnx, "-o", tmp_path / "q.onnx")
    assert result.exit_code == 2
    assert "--calibration" in result.stderr


def test_dry_run_and_existing_file(edgekd, net, tmp_path):
    output = tmp_path / "q.onnx"
    assert edgekd("quantize", net.onnx, "--precision", "fp16", "-o", output, "--dry-run").exit_code == 0
    assert not output.exists()
    output.write_bytes(b"mine")
    assert edgekd("quantize", net.onnx, "--precision", "fp16", "-o", output).exit_code == 2
    assert output.read_bytes() == b"mine"


def test_int8_of_fp16_is_refused(edgekd, net, tmp_path):
    edgekd("quantize", net.onnx, "--precision", "fp16", "-o", tmp_path / "h.onnx")
    result = edgekd("quantize", tmp_path / "h.onnx", "--calibration", "digits", "-o", tmp_path / "q.onnx")
    assert result.exit_code == 2
    assert "fp32" in result.stderr


def test_unknown_precision_is_a_usage_error(edgekd, net, tmp_path):
    result = edgekd("quantize", net.onnx, "--precision", "int4", "-o", tmp_path / "q.onnx")
    assert result.exit_code == 2
    assert "int8" in result.stderr


def test_the_calibrator_is_taken_and_kept_in_the_file(edgekd, net, tmp_path):
    output = tmp_path / "q.onnx"
    words = ("--calibration", "digits", "--size", "64", "--calibrator", "entropy", "-o", output)
    assert edgekd("quantize", net.onnx, *words).exit_code == 0
    notes = {item.key: item.value for item in onnx.load(output).metadata_props}
    assert notes["edgekd.calibration"] == "entropy over 64 inputs"


@pytest.mark.parametrize(("flavour", "target"), [("cpu", "cpu"), ("tensorrt", "jetson-orin")])
def test_per_layer_explains_every_layer_and_is_never_worse_than_all_int8(edgekd, net, tmp_path, flavour, target):
    output = tmp_path / "q.onnx"
    words = ("--calibration", "digits", "--size", "64", "--flavour", flavour, "--target", target, "-o", output)
    result = edgekd("quantize", net.onnx, *words, "--per-layer", "--max-drop", "0.0", "--json")
    assert result.exit_code == 0, result.output
    layers = json.loads(result.stdout)["layers"]
    nodes = {node.name for node in onnx.load(net.onnx).graph.node if node.op_type in ("Conv", "Gemm")}
    assert {row["layer"] for row in layers["rows"]} == nodes
    assert layers["kind"] == ("measured" if flavour == "cpu" else "predicted")
    kept = {row["layer"] for row in layers["rows"] if row["precision"] == "fp32"}
    if kept != nodes:
        notes = {item.key: item.value for item in onnx.load(output).metadata_props}
        assert set(json.loads(notes.get("edgekd.float_layers", "[]"))) == kept


def test_per_layer_needs_int8_and_a_device_that_fits(edgekd, net, tmp_path):
    base = ("quantize", net.onnx, "--calibration", "digits", "-o", tmp_path / "q.onnx", "--per-layer")
    for words, fragment in [
        (("--precision", "fp16"), "for int8, not for fp16"),
        (("--flavour", "tensorrt"), "name it with --target"),
        (("--flavour", "cpu", "--target", "jetson-orin"), "does not run int8 of flavour cpu"),
    ]:
        result = edgekd(*base, *words)
        assert result.exit_code == 2
        assert fragment in result.stderr


def test_bf16_and_fp8_need_a_device_that_has_them(edgekd, net, tmp_path):
    base = ("quantize", net.onnx, "-o", tmp_path / "q.onnx")
    for words, code, fragment in [
        (("--precision", "bf16"), 2, "name the one it is for with --target"),
        (("--precision", "bf16", "--target", "jetson-xavier-nx"), 4, "has no bf16 units"),
        (("--precision", "fp8", "--target", "jetson-orin", "--calibration", "digits"), 4, "has no fp8 units"),
        (("--precision", "fp8", "--target", "rtx-4090"), 2, "pass --calibration"),
        (("--precision", "bf16", "--target", "jetson-orin"), 2, "export with --opset 22"),
    ]:
        result = edgekd(*base, *words)
        assert (result.exit_code, fragment in result.stderr) == (code, True), result.stderr


def test_fp8_of_a_new_opset_is_written_and_a_too_new_opset_refused(edgekd, net, tmp_path):
    source, output = tmp_path / "new.onnx", tmp_path / "q.onnx"
    newer = onnx.version_converter.convert_version(onnx.load(net.onnx), 20)
    onnx.save(newer, source)
    words = ("--precision", "fp8", "--target", "rtx-4090", "--calibration", "digits", "--size", "64", "-o", output)
    result = edgekd("quantize", source, *words, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"]["precision"] == "fp8"
    held = {tensor.data_type for tensor in onnx.load(output).graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in held
    words = ("--target", "jetson-xavier-nx", "--flavour", "tensorrt", "--calibration", "digits")
    result = edgekd("quantize", source, *words, "-o", tmp_path / "x.onnx")
    assert result.exit_code == 4
    assert "export it again with --opset 17" in result.stderr
