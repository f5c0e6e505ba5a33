"""Text the whole way: a grammar that is made up here, which a tiny BERT must learn, and real sentences of SST-2."""

import json
import random

import numpy as np
import onnxruntime
import pytest

from edgekd.core.artifacts import TrainedModel, from_json
from edgekd.core.errors import ConfigError
from edgekd.data import DataConfig, load_dataset
from edgekd.data.text import read_corpus
from edgekd.distill import RunOptions, TrainSettings, evaluate, load_recipe, run_recipe
from edgekd.models import inherited_weights, load_model
from edgekd.pipeline.config import load_config
from edgekd.pipeline.run import RunRequest, distill
from edgekd.report import Verdict
from edgekd.ship import read_golden, verify

pytest.importorskip("transformers", reason="extra 'text' is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="extra 'text' is not installed")

NOUNS = ("dog", "cat", "bird", "fish")
VERBS = ("run", "sleep", "sing", "jump")
ADJECTIVES = ("old", "small", "", "")


def _sentence(chance):
    """Noun and verb agree in number, or they do not: no word alone tells."""
    is_plural, is_good = chance.random() < 0.5, chance.random() < 0.5
    noun = chance.choice(NOUNS) + "s" * is_plural
    verb = chance.choice(VERBS) + "s" * (is_plural != is_good)
    return " ".join(f"the {chance.choice(ADJECTIVES)} {noun} {verb}".split()), "good" if is_good else "bad"


@pytest.fixture(scope="module")
def grammar(tmp_path_factory):
    folder, chance = tmp_path_factory.mktemp("grammar"), random.Random(0)
    for part, count in (("train", 480), ("dev", 96), ("test", 200)):
        rows = [_sentence(chance) for _ in range(count)]
        (folder / f"{part}.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    return folder


def _run(folder, path, **flags):
    train = {"epochs": 12, "batch_size": 32, "lr": 0.002, "device": "cpu", **flags.pop("train", {})}
    data = {"name": "text", "path": str(path), **flags.pop("data", {})}
    wanted = {
        "data": {"length": 8, **data},
        "teacher": {"net": "bert2-w64"},
        "student": {"depths": [2], "widths": [64], "max_share": 1.0},
        "train": train,
        "target": "cpu",
        "budget": "p99<1s",
        "method": "kd",
        "seeds": 1,
        "compare_alone": False,
        "also_build": [],
        "calibration_size": 64,
        **flags,
    }
    return distill(load_config(None, flags=wanted, overrides=[]), RunRequest(folder, "test"))


@pytest.fixture(scope="module")
def finished(grammar, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "run"
    return folder, _run(folder, grammar)


def test_a_tiny_bert_learns_the_grammar_from_its_teacher(finished):
    _, report = finished
    assert report.verdict is Verdict.KEPT and report.parity.is_ok
    assert report.scores.teacher.mean > 0.9
    assert report.scores.distilled.mean > 0.9
    assert report.scores.distilled.net == "bert2-w64@8"


def test_the_bundle_alone_classifies_raw_texts_as_reported(finished, grammar):
    folder, report = finished
    verify(folder / "bundle")
    manifest = json.loads((folder / "bundle" / "bundle.json").read_text())
    paths = {artifact["role"]: folder / "bundle" / artifact["path"] for artifact in manifest["artifacts"]}
    tokenizer = tokenizers.Tokenizer.from_file(str(paths["tokenizer"]))
    session = onnxruntime.InferenceSession(
        paths[f"model-{report.precision.chosen}"], providers=["CPUExecutionProvider"]
    )
    test = read_corpus(grammar).test
    tokens = np.array([encoding.ids for encoding in tokenizer.encode_batch(list(test.texts))], np.int64)
    (logits,) = session.run(None, {"input": tokens})
    hits = [("bad", "good")[answer] == label for answer, label in zip(logits.argmax(1), test.labels, strict=True)]
    assert np.mean(hits) == pytest.approx(report.scores.distilled.mean, abs=0.02)
    golden = read_golden(paths["golden"])
    assert golden.inputs.dtype == np.int64
    (again,) = session.run(None, {"input": golden.inputs})
    assert np.abs(again - golden.logits).max() <= manifest["health"]["tolerance"]


def test_the_same_run_again_does_nothing(finished, grammar):
    folder, report = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    again = _run(folder, grammar)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert again.scores == report.scores


def test_gkd_cls_goes_from_text_to_a_packed_student(finished, grammar, tmp_path):
    weights = str(finished[0] / "teacher" / "teacher.safetensors")
    teacher = {"net": "bert2-w64", "weights": weights}
    report = _run(tmp_path / "run", grammar, method="gkd-cls", teacher=teacher, train={"epochs": 2})
    assert report.parity.is_ok and 0 <= report.scores.distilled.mean <= 1
    assert (tmp_path / "run" / "bundle" / "bundle.json").is_file()


def test_a_student_of_the_teachers_layers_starts_where_the_teacher_is(finished, grammar):
    dataset = load_dataset(DataConfig(name="text", path=str(grammar), length=8))
    model = from_json(TrainedModel, json.loads((finished[0] / "teacher" / "teacher.json").read_text()))
    weights = inherited_weights(model.spec, model.spec, load_model(model).state_dict(), layers="first")
    barely = TrainSettings(epochs=2, batch_size=32, lr=2e-4, optimizer="adamw", device="cpu")
    scores = {}
    for name, start in (("drawn", {}), ("first", weights)):
        outcome = run_recipe(
            load_recipe("plain"),
            student=model.spec,
            teacher=None,
            dataset=dataset,
            settings=barely,
            options=RunOptions(start=start),
        )
        scores[name] = evaluate(outcome.student, dataset.test).score
    assert scores["drawn"] < 0.7 < 0.9 < scores["first"]


def test_layers_that_do_not_fit_are_refused_before_training(grammar, tmp_path):
    with pytest.raises(ConfigError, match="width is 32 and 64"):
        _run(tmp_path / "run", grammar, student={"init": "first", "depths": [2], "widths": [32], "max_share": 1.0})
    assert not (tmp_path / "run" / "teacher").exists()


def test_pictures_methods_are_refused_before_training(grammar, tmp_path):
    with pytest.raises(ConfigError, match="on texts cls-hint or hidden-relation"):
        _run(tmp_path / "run", grammar, method="fitnet")
    assert not (tmp_path / "run" / "teacher").exists()
    with pytest.raises(ConfigError, match="resnet takes pictures, the data are tokens"):
        _run(tmp_path / "net", grammar, teacher={"net": "resnet8"})


def test_real_sentences_go_from_the_archive_to_a_packed_student(shared_data, tmp_path):
    path = shared_data / "text" / "sst2_glue.zip"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    report = _run(
        tmp_path / "run", path, data={"limit": 256, "length": 24}, train={"epochs": 1}, method="mas", budget="p99<5s"
    )
    assert report.verdict is Verdict.KEPT and report.parity.is_ok
    assert report.scores.teacher.net == "bert2-w64@24"
    assert any("texts are cut to 24 tokens" in note for note in report.notes)
