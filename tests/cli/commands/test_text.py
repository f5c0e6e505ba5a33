"""The single commands on a network of texts: export, quantize, profile."""

import json

import pytest

pytest.importorskip("transformers", reason="extra 'text' is not installed")

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = [(f"{one} {two} {one}", "same" if one < two else "other") for one in WORDS for two in WORDS]
    (folder / "all.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    (folder / "data.yaml").write_text(f"name: text\npath: {folder / 'all.csv'}\nlength: 8\n")
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def net(corpus, tmp_path_factory):
    import torch

    from edgekd.cli.data_choice import dataset_from_choice
    from edgekd.core.artifacts import to_json
    from edgekd.models import build, save_weights, spec_for

    folder, vocabulary = tmp_path_factory.mktemp("net"), dataset_from_choice(str(corpus)).vocabulary
    facts = {"in_channels": 0, "num_classes": 2, "resolution": 8, "mean": (), "std": (), "vocabulary": vocabulary}
    spec = spec_for("bert", depth=1, width=32, **facts)
    torch.manual_seed(0)
    save_weights(build(spec), folder / "net.safetensors", {})
    (folder / "net.json").write_text(json.dumps(to_json(spec)))
    return folder


def test_export_quantize_and_profile_take_a_network_of_texts(edgekd, corpus, net, tmp_path):
    spec, weights = ("--spec", str(net / "net.json")), ("--weights", str(net / "net.safetensors"))
    path, small = tmp_path / "net.onnx", tmp_path / "int8.onnx"
    exported = edgekd("export", *spec, *weights, "--data", str(corpus), "-o", str(path), "--json")
    document = json.loads(exported.stdout)
    assert document["parity"]["is_ok"] and document["parity"]["inputs"] == "real inputs of text and random ones"
    assert document["model"]["input_shape"] == [8]
    edgekd("quantize", str(path), "--calibration", str(corpus), "--size", "32", "-o", str(small))
    timed = edgekd("profile", str(small), "--min-seconds", "0.05", "--min-samples", "20", "--json")
    assert json.loads(timed.stdout)["latency"]["kind"] == "measured"
    predicted = edgekd("profile", str(path), "--target", "jetson-orin", "--json")
    assert json.loads(predicted.stdout)["latency"]["kind"] == "predicted"
