import dataclasses
import json

import pytest

from edgekd.core.artifacts import FileRef, LatencyReport, NetSpec, TrainedModel, from_json, to_json
from edgekd.core.errors import StorageError


@pytest.fixture
def spec():
    return NetSpec("resnet", 8, 4, 8, 1, 10, (0.3,), (0.2,), {"shortcut": "A"})


@pytest.fixture
def model(spec):
    return TrainedModel("distilled", spec, FileRef("a/b", "00ff", 12), {"val": 0.5}, "mas", 3, ("x",))


def test_nouns_survive_json(model):
    document = json.loads(json.dumps(to_json(model)))
    restored = from_json(TrainedModel, document)
    assert restored == model
    assert restored.digest == document["digest"]


def test_digest_ignores_where_a_file_lies_but_not_what_it_is(model):
    moved = dataclasses.replace(model, weights=dataclasses.replace(model.weights, path="elsewhere"))
    changed = dataclasses.replace(model, weights=dataclasses.replace(model.weights, sha256="00fe"))
    assert moved.digest == model.digest
    assert changed.digest != model.digest


@pytest.mark.parametrize(
    "field, value", [("width", 5), ("depth", 14), ("mean", (0.31,)), ("options", {"shortcut": "B"})]
)
def test_digest_depends_on_every_choice(spec, field, value):
    assert dataclasses.replace(spec, **{field: value}).digest != spec.digest


def test_from_json_refuses_an_altered_document(model):
    document = to_json(model)
    document["seed"] = 4
    with pytest.raises(StorageError, match="altered"):
        from_json(TrainedModel, document)


def test_from_json_refuses_a_malformed_document(model):
    document = to_json(model)
    document["spec"] = "resnet"
    with pytest.raises(StorageError, match="cannot be read"):
        from_json(TrainedModel, document)


def test_file_ref_notices_missing_and_changed_files(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    ref = FileRef.of(path)
    assert ref.size_bytes == 3
    assert ref.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert ref.is_intact()
    path.write_bytes(b"abd")
    assert not ref.is_intact()
    path.unlink()
    assert not ref.is_intact()


def test_predicted_latency_is_judged_by_its_upper_end():
    report = LatencyReport("predicted", "t", "fp16", "ops", 1.0, 2.5, 0.8, 1.3)
    assert report.judged_ms == {"p50": 1.3, "mean": 1.3, "p90": 2.5, "p99": 2.5}


def test_measured_latency_is_judged_as_measured():
    report = LatencyReport("measured", "cpu", "fp32", "ort", 1.0, 2.5, 0.9, 1.1, {"p90_ms": 1.9, "mean_ms": 1.2})
    assert report.judged_ms == {"p50": 1.0, "p90": 1.9, "mean": 1.2, "p99": 2.5}


def test_names_are_short(spec):
    assert spec.name == "resnet8-w4@8"
    assert dataclasses.replace(spec, family="timm", options={"model": "resnet18"}).name == "timm:resnet18"
