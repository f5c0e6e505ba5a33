"""A run read back: the networks of its report, nothing changed in its folder, and what is not finished refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from edgekd.core.artifacts import TrainedModel, from_json, to_json
from edgekd.core.errors import ConfigError, DataError, StorageError
from edgekd.distill import RunOptions, TrainSettings, load_recipe, run_recipe
from edgekd.models import build, load_model, save_weights, spec_for
from edgekd.pipeline.config import load_config
from edgekd.pipeline.finished import initial_student, load_finished, require_alone, teacher_of_run
from edgekd.pipeline.ledger import Ledger, read_results


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "moved")


def _edit(path, change):
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_networks_are_those_of_the_report(finished):
    folder, report, _ = finished
    run = load_finished(folder)
    assert {model.seed: model.scores["test"] for model in run.alone} == report.scores.alone.by_seed
    assert {model.seed: model.scores["test"] for model in run.distilled} == report.scores.distilled.by_seed
    assert run.teacher.spec.name == report.scores.teacher.net
    assert teacher_of_run(folder) == run.teacher
    assert run.dataset.digest == report.data.digest
    saved = from_json(TrainedModel, json.loads((folder / "student" / "distilled-seed1.json").read_text()))
    assert run.distilled[1] == saved


def test_reading_changes_nothing_and_needs_no_lock(finished):
    folder = finished[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    load_finished(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with Ledger.open(folder):
        assert load_finished(folder).teacher.role == "teacher"


def test_a_moved_run_is_read_where_it_lies_now(copy):
    run = load_finished(copy)
    assert all(model.weights.path.startswith(str(copy)) for model in (run.teacher, *run.alone, *run.distilled))
    assert load_model(run.teacher) is not None


def test_results_are_what_the_stages_returned(copy):
    results = read_results(copy)
    assert results["distilled/seed0"]["model"]["seed"] == 0
    with Ledger.open(copy) as ledger:
        result = ledger.stage("new", {}, lambda: {"answer": 42})
    assert read_results(copy)["new"] == result


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="run edgekd distill first"):
        load_finished(tmp_path)
    with pytest.raises(StorageError, match="is no run folder"):
        read_results(tmp_path)


def test_an_unfinished_run_is_refused(copy):
    _edit(copy / "run.json", lambda document: document["stages"].pop("distilled/seed1"))
    with pytest.raises(StorageError, match=r"has no distilled/seed1: finish the run"):
        load_finished(copy)


def test_networks_of_different_settings_are_refused(copy):
    def other_teacher(document):
        result = document["stages"]["distilled/seed0"]["result"]
        model = from_json(TrainedModel, result["model"])
        result["model"] = to_json(replace(model, parents=("0" * 64,)))

    _edit(copy / "run.json", other_teacher)
    with pytest.raises(StorageError, match="mixes networks of different settings"):
        load_finished(copy)


def test_other_data_than_the_runs_are_refused(copy):
    _edit(copy / "config.yaml", lambda document: document["data"].update(limit=300))
    with pytest.raises(DataError, match="its content changed since"):
        load_finished(copy)


def test_without_students_alone_the_error_says_how_to_get_them(copy):
    _edit(copy / "config.yaml", lambda document: document.update(compare_alone=False))
    run = load_finished(copy)
    with pytest.raises(ConfigError) as caught:
        require_alone(run)
    words = str(caught.value).splitlines()[1].split()
    assert words[:2] == ["edgekd", "distill"]
    assert words[2] == str(copy / "config.yaml")
    again = load_config(copy / "config.yaml", flags={}, overrides=[words[words.index("--set") + 1]])
    assert again.compare_alone
    require_alone(replace(run, alone=run.distilled))


def test_the_initial_student_is_where_training_starts(finished):
    run = load_finished(finished[0])
    spec = run.distilled[0].spec
    settings = TrainSettings(epochs=1, lr=1e-12, batch_size=64, augment="none", device="cpu", select="last")
    outcome = run_recipe(
        load_recipe("plain"),
        student=spec,
        teacher=None,
        dataset=run.dataset,
        settings=settings,
        options=RunOptions(seed=1),
    )
    start, other = initial_student(run, 1), initial_student(run, 0)
    trained = dict(outcome.student.named_parameters())
    assert all(torch.allclose(value, trained[name]) for name, value in start.named_parameters())
    assert not all(torch.allclose(value, trained[name]) for name, value in other.named_parameters())
    assert not start.training


def test_the_initial_student_takes_over_layers_of_the_teacher_where_the_run_did(finished, tmp_path):
    pytest.importorskip("transformers", reason="extra 'text' is not installed")
    facts = {"in_channels": 0, "num_classes": 3, "resolution": 8, "mean": (), "std": (), "vocabulary": 40}
    teacher, student = (spec_for("bert", depth=depth, width=64, **facts) for depth in (4, 2))
    torch.manual_seed(9)
    network = build(teacher)
    weights = save_weights(network, tmp_path / "teacher.safetensors", {})
    taught = TrainedModel("teacher", teacher, weights, {}, "plain", 0)
    run = load_finished(finished[0])
    config = run.config.model_copy(update={"student": run.config.student.model_copy(update={"init": "spread"})})
    begun = replace(run, config=config, teacher=taught, distilled=(replace(taught, role="distilled", spec=student),))
    found, layers = initial_student(begun, 0).state_dict(), network.state_dict()
    name = "net.bert.encoder.layer.{}.attention.self.query.weight"
    assert torch.equal(found[name.format(0)], layers[name.format(1)])
    assert torch.equal(found[name.format(1)], layers[name.format(3)])
