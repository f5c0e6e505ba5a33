"""What trackers are told is what log.jsonl has, and none of them can stop a run."""

import importlib.util
import json
import sqlite3
import sys
from contextlib import closing
from types import SimpleNamespace

import pytest

from edgekd.core.errors import PreconditionError
from edgekd.core.events import Event
from edgekd.distill import TrainSettings
from edgekd.pipeline import tracking as module
from edgekd.pipeline.config import RunConfig
from edgekd.pipeline.event_log import read_log
from edgekd.pipeline.tracking import Tracking, public_settings, tracked


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self, stage, told):
        self.stage, self.told = stage, told

    def store_init_configuration(self, values):
        self.told.append((self.stage, "settings", values))

    def log(self, values, step=None):
        self.told.append((self.stage, step, values))

    def finish(self):
        self.told.append((self.stage, "finished", {}))


EVENTS = [
    Event("start", "teacher"),
    Event("step", "teacher/student", "", 50, 100, {"loss": 2.0, "kd?": 1.0}),
    Event("progress", "teacher/student", "", 1, 2, {"loss": 1.5, "val_score": 0.4, "step": 80}),
    Event("progress", "teacher/second", "", 1, 1, {"loss": 1.0, "step": 10}),
    Event("result", "teacher", "", values={"test_score": 0.5}),
    Event("end", "teacher"),
    Event("start", "export"),
    Event("progress", "elsewhere", "", 1, 2, {"loss": 9.0}),
    Event("end", "export"),
    Event("start", "distilled/seed1"),
    Event("step", "distilled/seed10/student", "", 3, 9, {"loss": 7.0}),
    Event("note", "distilled/seed1", "hello"),
    Event("end", "distilled/seed1"),
    Event("result", "run", "", values={"gain": 0.1}),
]


def test_each_training_is_a_run_of_its_own_whose_steps_never_go_back():
    told = []
    tracking = Tracking({"wandb": lambda stage: Kept(stage, told)}, {"seeds": 1})
    for event in EVENTS:
        tracking(event)
    assert told == [
        ("teacher", "settings", {"seeds": 1}),
        ("teacher", 50, {"student/loss": 2.0, "student/kd_": 1.0}),
        ("teacher", 80, {"student/epoch/loss": 1.5, "student/epoch/val_score": 0.4, "student/epoch/epoch": 1.0}),
        ("teacher", 90, {"second/epoch/loss": 1.0, "second/epoch/epoch": 1.0}),
        ("teacher", 90, {"test_score": 0.5}),
        ("teacher", "finished", {}),
        ("distilled/seed1", "settings", {"seeds": 1}),
        ("distilled/seed1", "finished", {}),
        ("run", "settings", {"seeds": 1}),
        ("run", 0, {"gain": 0.1}),
        ("run", "finished", {}),
    ]


def test_trials_of_a_search_are_one_run_and_fine_tuning_in_int8_another():
    told = []
    tracking = Tracking({"wandb": lambda stage: Kept(stage, told)}, {})
    for event in [
        Event("start", "search"),
        Event("progress", "search", "trial 0", 1, 9, {"trial": 0.0, "score": 0.5, "p99": 0.2}),
        Event("progress", "search", "trial 1", 2, 9, {"trial": 1.0, "p99": 3.0}),
        Event("end", "search"),
        Event("start", "qat"),
        Event("step", "qat/student", "", 50, 100, {"loss": 2.0}),
        Event("end", "qat"),
    ]:
        tracking(event)
    assert told == [
        ("search", "settings", {}),
        ("search", 1, {"trial": 0.0, "score": 0.5, "p99": 0.2}),
        ("search", 2, {"trial": 1.0, "p99": 3.0}),
        ("search", "finished", {}),
        ("qat", "settings", {}),
        ("qat", 50, {"student/loss": 2.0}),
        ("qat", "finished", {}),
    ]


@pytest.mark.parametrize("broken", ["open", "store_init_configuration", "log", "finish"])
def test_a_tracker_that_fails_is_noted_once_and_the_other_goes_on(broken):
    told, notes = [], []

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    def opener(stage):
        if broken == "open":
            fail()
        kept = Kept(stage, [])
        setattr(kept, broken, fail)
        return kept

    tracking = Tracking({"mlflow": opener, "wandb": lambda stage: Kept(stage, told)}, {}, notes.append)
    for event in EVENTS:
        tracking(event)
    tracking.close()
    assert len(told) == 11
    assert [note.stage for note in notes] == ["trackers"]
    assert "mlflow failed ([Errno 28] No space left on device); the run goes on without it" in notes[0].message


def test_what_an_error_leaves_open_is_ended(tmp_path, monkeypatch):
    told = []
    monkeypatch.setitem(module._OPENERS, "wandb", lambda folder: lambda stage: Kept(stage, told))
    monkeypatch.setattr(module, "_is_installed", lambda package: True)
    with pytest.raises(KeyError), tracked(RunConfig(trackers=("wandb",)), tmp_path) as tracking:
        tracking(Event("start", "teacher"))
        raise KeyError
    assert told[-1] == ("teacher", "finished", {})


def test_secrets_are_not_logged():
    document = {
        "search": {"storage": "postgresql://me:pass@host/db", "api_key": "k"},
        "hub_token": "t",
        "train": {"lr": 0.1, "nesterov": False, "patience": None, "milestones": [0.5]},
    }
    assert public_settings(document) == {
        "search.storage": "postgresql://host/db",
        "train.lr": 0.1,
        "train.nesterov": False,
        "train.milestones": "[0.5]",
    }


def test_a_tracker_that_is_named_must_be_there_and_the_default_need_not(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_is_installed", lambda package: False)
    missing = r"tracker mlflow needs the package 'mlflow': pip install 'edgekd\[mlflow\]'"
    with pytest.raises(PreconditionError, match=missing), tracked(RunConfig(trackers=("mlflow",)), tmp_path):
        pass
    notes = []
    with tracked(RunConfig(), tmp_path) as tracking:
        assert tracking.openers == {}
        tracking(Event("start", "early"))
        tracking.tell = notes.append
        for event in EVENTS:
            tracking(event)
    assert [note.message for note in notes] == [
        "TensorBoard is not installed, log.jsonl has all: pip install 'edgekd[tensorboard]' for plots"
    ]
    with tracked(RunConfig(trackers=()), tmp_path) as tracking:
        assert (tracking.openers, tracking.unheard) == ({}, "")


def test_tensorboard_gets_what_is_told(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    notes = []
    with tracked(RunConfig(trackers=("tensorboard",)), tmp_path) as tracking:
        tracking.tell = notes.append
        for event in EVENTS:
            tracking(event)
    assert notes == []
    events = EventAccumulator(str(tmp_path / "tensorboard" / "teacher"))
    events.Reload()
    losses = [(one.step, one.value) for one in events.Scalars("student/loss")]
    assert losses == [(50, 2.0)]
    assert [(one.step, one.value) for one in events.Scalars("second/epoch/loss")] == [(90, 1.0)]
    assert events.Scalars("test_score")[0].value == 0.5
    stored = next((tmp_path / "tensorboard" / "teacher").rglob("hparams.yml")).read_text()
    assert "train.lr: 0.05" in stored


def _fake_wandb(told):
    def init(**options):
        told.append(("init", options))
        return SimpleNamespace(
            log=lambda values, step=None, **_: told.append((step, values)), finish=lambda: told.append("finished")
        )

    config = SimpleNamespace(update=lambda values, **_: told.append(("config", values)))
    return SimpleNamespace(init=init, config=config, __spec__=SimpleNamespace())


def test_weights_and_biases_get_a_run_for_each_training(tmp_path, monkeypatch):
    told, notes = [], []
    monkeypatch.setitem(sys.modules, "wandb", _fake_wandb(told))
    with tracked(RunConfig(trackers=("wandb",)), tmp_path / "r1") as tracking:
        tracking.tell = notes.append
        for event in EVENTS:
            tracking(event)
    assert notes == []
    runs = [one[1]["name"] for one in told if one[0] == "init"]
    assert runs == ["r1/teacher", "r1/distilled/seed1", "r1/run"]
    assert told[0][1]["project"] == "edgekd" and told[0][1]["group"] == "r1"
    assert (50, {"student/loss": 2.0, "student/kd_": 1.0}) in told
    assert told.count("finished") == 3


def test_mlflow_gets_a_run_for_each_training(tmp_path, monkeypatch):
    told, notes = [], []
    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    fake = SimpleNamespace(
        __spec__=SimpleNamespace(),
        set_tracking_uri=lambda uri: told.append(("uri", uri)),
        search_experiments=lambda **_: [],
        create_experiment=lambda name, **_: name,
        start_run=lambda **options: told.append(("start", options["run_name"], options["experiment_id"])),
        log_params=lambda values: told.append(("params", values)),
        log_metrics=lambda values, step=None: told.append((step, values)),
        end_run=lambda: told.append("end"),
        utils=SimpleNamespace(validation=limits),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracked(RunConfig(trackers=("mlflow",)), tmp_path / "r1") as tracking:
        tracking.tell = notes.append
        for event in EVENTS:
            tracking(event)
    assert notes == []
    assert told[0] == ("uri", f"sqlite:///{tmp_path}/r1/mlflow.db")
    assert [one for one in told if one[0] == "start"] == [
        ("start", "r1/teacher", "edgekd"),
        ("start", "r1/distilled/seed1", "edgekd"),
        ("start", "r1/run", "edgekd"),
    ]
    assert (80, {"student/epoch/loss": 1.5, "student/epoch/val_score": 0.4, "student/epoch/epoch": 1.0}) in told
    assert told.count("end") == 3
    assert any(one[0] == "params" and one[1]["train.lr"] == 0.05 for one in told)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="no wandb")
def test_the_real_wandb_takes_runs_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    notes = []
    with tracked(RunConfig(trackers=("wandb",)), tmp_path) as tracking:
        tracking.tell = notes.append
        for event in EVENTS:
            tracking(event)
    assert notes == []
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 3


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="no mlflow")
def test_the_real_mlflow_keeps_runs_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notes = []
    with tracked(RunConfig(trackers=("mlflow",)), tmp_path) as tracking:
        tracking.tell = notes.append
        for event in EVENTS:
            tracking(event)
    assert notes == []
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        rows = store.execute("select value, step from metrics where key = 'student/epoch/val_score'").fetchall()
    assert rows == [(0.4, 80)]


def test_a_run_logs_losses_results_and_no_less_than_trackers_show(finished):
    folder, report, _ = finished
    logged = [line.event for line in read_log(folder / "log.jsonl")]
    results = {event.stage: event.values for event in logged if event.kind == "result"}
    assert results["teacher"]["test_score"] == report.scores.teacher.mean
    assert results["distilled/seed1"]["test_score"] == report.scores.distilled.by_seed[1]
    assert results["run"]["distilled_score"] == report.scores.distilled.mean
    latency = next(row for row in report.latency if row.network == "student")
    name = f"{latency.target} {latency.precision} student {latency.kind} p50_ms"
    assert results["run"][name] == latency.p50_ms
    epochs = [event for event in logged if event.kind == "progress" and event.stage == "distilled/seed0/student"]
    assert [event.done for event in epochs] == [1, 2]
    assert {"loss", "val_score", "lr", "seconds", "step", "kd"} <= epochs[0].values.keys()
    if importlib.util.find_spec("tensorboard") is not None:
        assert {path.name for path in (folder / "tensorboard").iterdir()} == {"teacher", "alone", "distilled", "run"}


def test_settings_of_the_log_do_not_decide_weights():
    assert TrainSettings(log_every=3).deciding() == TrainSettings().deciding()
    assert json.dumps(TrainSettings().deciding())
