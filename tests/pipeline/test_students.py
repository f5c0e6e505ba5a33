"""Students that are no family's: the teacher with fewer channels, and networks of the user's own."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import BudgetExceeded, ConfigError
from edgekd.distill import TrainSettings
from edgekd.models import find_prunable, load_model, prune
from edgekd.pipeline.finished import initial_student, load_finished
from edgekd.pipeline.starting import settings_of

PRUNED = {"family": "pruned", "max_share": 0.8}


def _started(events):
    return [event.stage for event in events if event.kind == "start"]


def test_a_student_cut_from_the_teacher_begins_with_the_trained_weights(finished, run, tmp_path):
    pytest.importorskip("torch_pruning", reason="extra prune is not installed")
    overrides = ("seeds=1", "student.keeps=[0.25,0.5]")
    shutil.copytree(finished[0], tmp_path / "run")
    report, events = run(tmp_path / "run", *overrides, student=PRUNED, target="jetson-orin", budget="p99<5ms")
    done = load_finished(tmp_path / "run")
    (student,), teacher = done.distilled, load_model(done.teacher)
    assert student.spec.name == "pruned:resnet8-w8@8-u.5" and report.scores.distilled.net == student.spec.name
    assert "teacher" not in _trained_again(events)
    found, state = prune(
        teacher,
        done.teacher.spec,
        find_prunable(teacher, done.teacher.spec.input_shape, name="x"),
        keep=0.5,
        multiple=8,
    )
    assert found.digest == student.spec.digest
    first = initial_student(done, 0).state_dict()
    assert all(torch.equal(first[name], value) for name, value in state.items())
    trained, name = load_model(student).state_dict(), "net.layer3.0.conv1.weight"
    assert 0 < float((trained[name] - first[name]).abs().max()) < 0.1
    (note,) = [one for one in report.notes if "begins with the teacher's weights" in one]
    assert "0.1 of the learning rate" in note


@pytest.mark.parametrize(
    ("layer", "rate"), [(nn.ReLU(), 0.02), (nn.BatchNorm2d(4), 0.1), (nn.GroupNorm(1, 4), 0.1), (nn.RMSNorm(4), 0.1)]
)
def test_a_cut_student_without_normalisation_learns_slower_unless_told(monkeypatch, layer, rate):
    spec = NetSpec("pruned", 0, 0, 8, 1, 4, (0.3,), (0.2,))
    monkeypatch.setattr("edgekd.pipeline.starting.build", lambda _: nn.Sequential(nn.Conv2d(1, 4, 3), layer))
    assert settings_of(TrainSettings(), spec).student_lr == rate
    assert settings_of(TrainSettings(student_lr=0.7), spec).student_lr == 0.7
    assert settings_of(TrainSettings(), replace(spec, family="resnet")).student_lr is None


NORMLESS = """
from torch import nn

def make(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""


def test_networks_that_did_not_learn_are_named_in_the_report(finished, run, tmp_path):
    done = load_finished(finished[0])
    weak = {(one.role, one.seed) for one in (done.teacher, *done.alone, *done.distilled) if one.scores["val"] <= 0.15}
    told = [note.split(", did not learn")[0] for note in finished[1].notes if "did not learn" in note]
    assert sorted(told) == sorted(f"{role}, seed {seed}" for role, seed in weak)
    (tmp_path / "mine.py").write_text(NORMLESS)
    shutil.copytree(finished[0], tmp_path / "run")
    overrides = ("seeds=1", "train.lr=1e-30", "train.epochs=1", "teacher.lr=0.05")
    report, events = run(
        tmp_path / "run", *overrides, student={"net": f"{tmp_path}/mine.py:make"}, target="jetson-orin"
    )
    notes = [note for note in report.notes if "did not learn" in note]
    assert [note.split(",")[0] for note in notes] == ["alone", "distilled"]
    assert all("one answer to everything reaches top-1 10.00 %" in note for note in notes)
    assert all("without normalisation layers often need train.optimizer=adamw" in note for note in notes)
    assert [event.message for event in events if event.kind == "note" and "did not learn" in event.message] == notes


def _trained_again(events):
    return {event.stage for event in events if event.kind == "progress"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.init=first"], "leave those out, init, options"),
        (["student.mean=[0.5]"], "leave those out, init, options"),
        (["student.keeps=[]"], "at least 1 item"),
        (["student.keeps=[1.5]"], "less than or equal to 1"),
        (["student.max_share=0.0001"], "no resnet8-w8@8 with shares .* of its channels has at most"),
    ],
)
def test_a_student_cut_from_the_teacher_takes_no_other_weights_and_has_a_size(run, tmp_path, overrides, message):
    pytest.importorskip("torch_pruning", reason="extra prune is not installed")
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", *overrides, student=PRUNED, target="jetson-orin")


def test_a_budget_that_no_cut_teacher_keeps_says_how_to_cut_more(run, tmp_path):
    pytest.importorskip("torch_pruning", reason="extra prune is not installed")
    with pytest.raises(BudgetExceeded, match=r"allow smaller students \(--set student.keeps="):
        run(tmp_path / "run", student=PRUNED, target="jetson-orin", budget="p50<0.06ms")


_STUDENT_FILE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

def make(num_classes):
    return Small(num_classes)
"""


def test_a_student_of_ones_own_is_distilled_exported_and_built_again_while_its_file_stays(finished, run, tmp_path):
    (tmp_path / "own.py").write_text(_STUDENT_FILE)
    shutil.copytree(finished[0], tmp_path / "run")
    flags = {"student": {"net": f"{tmp_path / 'own.py'}:make"}, "target": "jetson-orin", "budget": "p99<5ms"}
    report, _ = run(tmp_path / "run", "compare_alone=false", **flags)
    assert report.scores.distilled.net == "python:own.py:make"
    assert any("python:own.py:make was given" in note for note in report.notes)
    assert load_finished(tmp_path / "run").distilled[0].spec.mean == load_finished(tmp_path / "run").dataset.mean
    drawn = [load_model(one).state_dict()["net.conv.weight"] for one in load_finished(tmp_path / "run").distilled]
    assert len(drawn) == 2 and not torch.equal(*drawn)
    again, events = run(tmp_path / "run", "compare_alone=false", **flags)
    assert _started(events) == [] and again.scores == report.scores
    (tmp_path / "own.py").write_text(_STUDENT_FILE.replace("6", "5"))
    _, events = run(tmp_path / "run", "compare_alone=false", "seeds=1", **flags)
    assert "distilled/seed0" in _started(events)
    with pytest.raises(BudgetExceeded, match=r"own.py:make\); take another student or a larger budget"):
        run(tmp_path / "run", "compare_alone=false", **{**flags, "budget": "p50<0.06ms"})


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"net": "resnet8-w4"}, "net is file.py:function or timm:NAME"),
        ({"net": "a.py:b", "family": "pruned"}, "neither found nor cut"),
        ({"net": "a.py:b", "found": "c.json"}, "neither found nor cut"),
        ({"net": "absent.py:make"}, "student file absent.py: no such file"),
        ({"net": "absent.py"}, "as in absent.py:make_student"),
    ],
)
def test_a_student_of_ones_own_is_named_as_it_can_be_found(run, tmp_path, student, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", student=student, target="jetson-orin")
