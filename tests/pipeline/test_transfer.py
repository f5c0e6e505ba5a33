"""A student that starts from weights of a file, through the whole command."""

import json

import pytest
import safetensors.torch
import torch

from edgekd.core.artifacts import TrainedModel, from_json
from edgekd.core.errors import ConfigError
from edgekd.pipeline.finished import initial_student, load_finished
from edgekd.pipeline.run import RunRequest, distill

HEAD = ("net.linear.weight", "net.linear.bias")


@pytest.fixture(scope="module")
def weights(finished):
    """Those of a student that an earlier, plain run left behind."""
    return finished[0] / "student" / "alone-seed0.safetensors"


@pytest.fixture(scope="module")
def transferred(run, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transferred") / "run"
    own = (f"student.weights={weights}", "student.mean=[0.5]", "student.std=[0.25]")
    report, events = run(folder, *_same_student(weights), *own, "seeds=1", method="tl-kd")
    return folder, report, events


def _same_student(weights):
    model = json.loads(weights.with_suffix(".json").read_text())
    return f"student.depths=[{model['spec']['depth']}]", f"student.widths=[{model['spec']['width']}]"


def test_both_arms_start_from_the_file_and_the_one_alone_is_fine_tuning(transferred, weights):
    folder, _, events = transferred
    models = {
        role: from_json(TrainedModel, json.loads((folder / "student" / f"{role}-seed0.json").read_text()))
        for role in ("alone", "distilled")
    }
    assert (models["alone"].method, models["distilled"].method) == ("tl", "tl-kd")
    assert (models["distilled"].spec.mean, models["distilled"].spec.std) == ((0.5,), (0.25,))
    names = {event.stage for event in events if event.kind == "progress"}
    assert {"alone/seed0/head", "alone/seed0/student", "distilled/seed0/head", "distilled/seed0/student"} <= names
    given = safetensors.torch.load_file(weights)
    start = initial_student(load_finished(folder), 0).state_dict()
    assert all(torch.equal(start[name], value) for name, value in given.items())


def test_a_classifier_for_other_classes_is_drawn_with_a_note(config, weights, tmp_path):
    state = safetensors.torch.load_file(weights)
    other = {**state, HEAD[0]: torch.ones(3, state[HEAD[0]].shape[1]), HEAD[1]: torch.ones(3)}
    safetensors.torch.save_file(other, tmp_path / "three.safetensors")
    events = []

    def listen(event):
        events.append(event)
        if event.kind == "note" and event.stage == "student":
            raise KeyboardInterrupt

    settings = config(*_same_student(weights), f"student.weights={tmp_path / 'three.safetensors'}", method="tl-kd")
    with pytest.raises(KeyboardInterrupt):
        distill(settings, RunRequest(tmp_path / "run", "edgekd distill", listener=listen))
    assert "has no net.linear.weight, net.linear.bias that fit: these are drawn" in events[-1].message
    assert not any(event.stage == "teacher" for event in events)


@pytest.mark.parametrize(
    "change, words",
    [("student.widths=[3]", "does not hold the weights of this network"), ("student.init=first", "not from both")],
)
def test_weights_that_do_not_fit_are_refused_before_the_teacher_is_trained(run, weights, tmp_path, change, words):
    with pytest.raises(ConfigError, match=words):
        run(tmp_path / "run", *_same_student(weights), change, f"student.weights={weights}", method="tl-kd")
    assert not (tmp_path / "run" / "teacher").exists()


def test_fine_tuning_without_weights_is_refused_before_the_teacher_is_trained(run, tmp_path):
    with pytest.raises(ConfigError, match="student.weights=FILE"):
        run(tmp_path / "run", method="tl-kd")
    assert not (tmp_path / "run" / "teacher").exists()


def test_other_weights_train_again(run, transferred, weights, tmp_path):
    folder, _, _ = transferred
    state = safetensors.torch.load_file(weights)
    state["net.conv1.weight"] *= 1.5
    safetensors.torch.save_file(state, tmp_path / "other.safetensors")
    options = (*_same_student(weights), "seeds=1", "student.mean=[0.5]", "student.std=[0.25]")
    _, kept = run(folder, *options, f"student.weights={weights}", method="tl-kd")
    _, again = run(folder, *options, f"student.weights={tmp_path / 'other.safetensors'}", method="tl-kd")
    started = [{event.stage for event in events if event.kind == "start"} for events in (kept, again)]
    assert "distilled/seed0" not in started[0] and {"alone/seed0", "distilled/seed0"} <= started[1]


def test_a_baseline_that_does_not_fit_is_refused_before_the_teacher_is_trained(run, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("{name: mine, title: Mine, baseline: tl, stages: [{name: student, terms: [{type: kd}]}]}")
    with pytest.raises(ConfigError, match="recipe 'tl' fine-tunes a student"):
        run(tmp_path / "run", method=str(mine))
    assert not (tmp_path / "run" / "teacher").exists()
