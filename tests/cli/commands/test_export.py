"""Export writes a proven ONNX file or nothing."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from edgekd import export as export_package
from edgekd.core.artifacts import FileRef, TrainedModel, to_json
from edgekd.core.errors import ParityError

onnxruntime = pytest.importorskip("onnxruntime")


def run(edgekd, net, output, *more):
    return edgekd("export", "--spec", net.spec, "--weights", net.weights, "-o", output, *more)


def test_exported_file_gives_the_logits_of_the_network(edgekd, net, tmp_path):
    output = tmp_path / "new" / "net.onnx"
    result = run(edgekd, net, output, "--data", "digits", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    images = np.random.default_rng(1).random((5, 1, 8, 8), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(output))
    (logits,) = session.run(None, {"input": images})
    with torch.no_grad():
        expected = net.module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert document["model"]["file"] == dataclasses.asdict(FileRef.of(output))
    assert document["parity"]["is_ok"] is True
    assert document["parity"]["inputs"] == "real inputs of digits and random ones"


def test_architecture_is_taken_from_a_trained_model_too(edgekd, net, tmp_path):
    from edgekd.cli.commands.export import net_spec_from_file

    spec = net_spec_from_file(net.spec)
    trained = TrainedModel("distilled", spec, FileRef.of(net.weights), {"val": 0.5}, "kd", 0)
    (tmp_path / "t.json").write_text(json.dumps(to_json(trained)))
    assert net_spec_from_file(tmp_path / "t.json") == spec


def test_broken_parity_exits_3_and_leaves_no_file(edgekd, net, tmp_path, monkeypatch):
    def refuse(report):
        raise ParityError("parity is broken: max_rel 1")

    monkeypatch.setattr(export_package, "require_parity", refuse)
    result = run(edgekd, net, tmp_path / "n.onnx")
    assert (result.exit_code, result.stderr) == (3, "error: parity is broken: max_rel 1\n")
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept_unless_forced(edgekd, net, tmp_path):
    output = tmp_path / "n.onnx"
    output.write_bytes(b"mine")
    result = run(edgekd, net, output)
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert output.read_bytes() == b"mine"
    forced = run(edgekd, net, output, "--force", "--batch", "2", "--opset", "18")
    assert forced.exit_code == 0
    assert output.stat().st_size > 1000
    assert "opset 18" in forced.stdout
    assert "random inputs only" in forced.stdout


def test_dry_run_writes_nothing(edgekd, net, tmp_path):
    result = run(edgekd, net, tmp_path / "n.onnx", "--dry-run", "--json")
    assert json.loads(result.stdout)["would_write"] == [str(tmp_path / "n.onnx")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("--target", "jetson-xavier-nx", "--opset", "20"), 4, "opset 20 is newer than jetson-xavier-nx takes"),
        (("--target", "jetson-orim"), 2, "did you mean jetson-orin"),
        (("--data", "digit"), 2, "did you mean digits"),
        (("--opset", "5"), 2, "opset is 5"),
    ],
)
def test_wrong_request_is_one_message(edgekd, net, tmp_path, more, code, says):
    result = run(edgekd, net, tmp_path / "n.onnx", *more)
    assert result.exit_code == code
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_old_target_lowers_the_opset(edgekd, net, tmp_path):
    from edgekd.targets import get_target

    highest = get_target("jetson-nano").max_opset  # what it is exported at, though newer TensorRT lines read more
    assert highest < 17
    text = run(edgekd, net, tmp_path / "n.onnx", "--target", "jetson-nano", "--dry-run").stdout
    assert f"opset {highest} " in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"depht": 20}, "unknown key depht"),
        ({"depth": "deep"}, "depth: Input should be a valid integer"),
        ({"family": "vgh"}, "did you mean vgg"),
    ],
)
def test_wrong_architecture_is_named(edgekd, net, tmp_path, change, says):
    (tmp_path / "s.json").write_text(json.dumps({**net.spec_document, **change}))
    result = edgekd("export", "--spec", tmp_path / "s.json", "--weights", net.weights, "-o", tmp_path / "n.onnx")
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_file_that_is_no_architecture_is_refused(edgekd, net, tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    result = edgekd("export", "--spec", tmp_path / "s.json", "--weights", net.weights, "-o", tmp_path / "n.onnx")
    assert result.exit_code == 2
    assert "s.json is" in result.stderr


def test_weights_of_another_network_are_refused(edgekd, net, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({**net.spec_document, "width": 16}))
    result = edgekd("export", "--spec", tmp_path / "s.json", "--weights", net.weights, "-o", tmp_path / "n.onnx")
    assert result.exit_code == 2
    assert "does not hold the weights of this network" in result.stderr
    assert not (tmp_path / "n.onnx").exists()
