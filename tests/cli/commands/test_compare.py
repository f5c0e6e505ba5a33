"""Compare from the command line: its three forms, its exit codes, and the precisions that edgekd itself makes."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sklearn.datasets import load_digits

pytest.importorskip("onnxruntime")


@pytest.fixture
def faulty(net, tmp_path):
    """A copy of the network with one changed weight, and the node that reads it."""
    proto = onnx.load(net.onnx)
    node = [node for node in proto.graph.node if node.op_type == "Conv"][2]
    tensor = next(one for one in proto.graph.initializer if one.name == node.input[1])
    value = numpy_helper.to_array(tensor).copy()
    value.flat[0] += 1.0
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(proto, tmp_path / "faulty.onnx")
    return tmp_path / "faulty.onnx", node.name


@pytest.mark.parametrize("words", [(), ("--bisect",)])
def test_the_culprit_is_named_and_the_code_is_3(edgekd, net, faulty, words):
    path, node = faulty
    result = edgekd("compare", net.onnx, path, *words, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["culprit"]) == (3, node)
    (row,) = [row for row in document["layers"] if row["status"] == "culprit"]
    assert row["max_abs"] > 0.01
    assert "differs in 1 of" in row["reasons"][0]
    text = edgekd("compare", net.onnx, path, *words).stdout
    assert f"{node} departs on its own: max_rel" in text
    assert "still fine" in text


def test_equal_files_are_done(edgekd, net):
    result = edgekd("compare", net.onnx, net.onnx)
    assert (result.exit_code, "every layer is within max_rel 0.0001" in result.stdout) == (0, True)


def test_a_torch_network_and_its_export(edgekd, net, faulty):
    words = ("--spec", net.spec, "--weights", net.weights)
    sound, wrong = edgekd("compare", net.onnx, *words), edgekd("compare", faulty[0], *words, "--json")
    assert (sound.exit_code, wrong.exit_code) == (0, 3), sound.output
    assert json.loads(wrong.stdout)["culprit"] == faulty[1]


def test_engines_of_onnx_runtime(edgekd, net):
    result = edgekd("compare", net.onnx, "--backend", "onnxruntime")
    assert (result.exit_code, "the last layer is within" in result.stdout) == (0, True), result.output


def test_precisions_made_by_edgekd_are_within_their_tolerances(edgekd, net, tmp_path):
    from edgekd.cli.onnx_file import onnx_model_from_file
    from edgekd.precision import to_fp16, to_int8

    model = onnx_model_from_file(net.onnx)
    inputs = load_digits().images[:128, None].astype(np.float32) / 16
    to_fp16(model, tmp_path / "fp16.onnx", inputs=inputs)
    to_int8(model, tmp_path / "int8.onnx", calibration=inputs, flavour="tensorrt")
    np.savez(tmp_path / "x.npz", input=inputs[:8])
    for name, limit in (("fp16", "max_rel 0.02"), ("int8", "rms_rel 0.2")):
        result = edgekd("compare", net.onnx, tmp_path / f"{name}.onnx", "--inputs", tmp_path / "x.npz")
        assert (result.exit_code, f"every layer is within {limit}" in result.stdout) == (0, True), result.output
        document = json.loads(edgekd("compare", net.onnx, tmp_path / f"{name}.onnx", "--json").stdout)
        assert len(document["layers"]) >= 10
    strict = edgekd("compare", net.onnx, tmp_path / "int8.onnx", "--tolerance", "0.0001")
    assert strict.exit_code == 3


def test_small_parts_change_nothing(edgekd, net, faulty):
    whole = json.loads(edgekd("compare", net.onnx, faulty[0], "--json").stdout)
    parts = json.loads(edgekd("compare", net.onnx, faulty[0], "--count", "64", "--part-mb", "1", "--json").stdout)
    assert (whole["runs"], parts["culprit"]) == (1, whole["culprit"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "two things are compared"),
        (("NET", "NET"), 2, "two things are compared"),
        (("--spec", "SPEC"), 2, "named by both --spec and --weights"),
        (("NET", "--backend", "onnxruntime"), 2, "two things are compared"),
        (("--backend", "ort"), 2, "unknown engine backend 'ort'"),
        (("NET", "--inputs", "SPEC"), 1, "no .npz or .npy of numbers"),
        (("NET", "--inputs", "WRONG"), 1, "input 'input' is float64"),
    ],
)
def test_wrong_requests_are_one_message(edgekd, net, tmp_path, words, code, says):
    np.save(tmp_path / "wrong.npy", np.zeros((1, 1, 8, 8)))
    named = {"NET": net.onnx, "SPEC": net.spec, "WRONG": tmp_path / "wrong.npy"}
    if words == ("NET", "NET"):
        words = (*words, "NET")
    result = edgekd("compare", net.onnx, *(named.get(word, word) for word in words))
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr


def test_inputs_that_prove_nothing_are_refused(edgekd, net, tmp_path):
    np.savez(tmp_path / "whole.npz", input=np.random.default_rng(0).random((64, 1, 8, 8), np.float32))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:3000])
    np.savez(tmp_path / "nan.npz", input=np.full((1, 1, 8, 8), np.nan, np.float32))
    np.savez(tmp_path / "empty.npz", input=np.zeros((0, 1, 8, 8), np.float32))
    says = {
        "cut": "no .npz or .npy of numbers",
        "nan": "'input' has NaN or infinite values",
        "empty": "'input' is empty",
    }
    for name, words in says.items():
        result = edgekd("compare", net.onnx, net.onnx, "--inputs", tmp_path / f"{name}.npz")
        assert (result.exit_code, words in result.stderr) == (1, True), result.output


def test_open_sizes_need_inputs(edgekd, write_onnx, tmp_path):
    path = write_onnx(tmp_path / "a.onnx", shape=("B", 3, "H", "W"))
    assert "pass --inputs" in edgekd("compare", path, path).stderr
    np.savez(tmp_path / "x.npz", in0=np.ones((2, 3, 6, 7), np.float32))
    assert edgekd("compare", path, path, "--inputs", tmp_path / "x.npz").exit_code == 0
