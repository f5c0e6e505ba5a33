"""A generation on trial is confirmed by what serves it, or left."""

import dataclasses
import threading
import time

import pytest
from edgekd_agent import documents
from edgekd_agent.errors import AgentError
from edgekd_agent.install.confirm import Beat, approve, read_beat, write_beat


@pytest.fixture
def trial(bench):
    """A device that runs one release and confirms the next by heartbeats."""
    bench.install(bench.release(1))
    bench.settings = dataclasses.replace(
        bench.settings, confirm_by="heartbeat", confirm_minutes=5.0 / 60, confirm_beats=2
    )
    return bench


class Application:
    """Beats while the agent waits."""

    def __init__(self, bench, beats) -> None:
        self._bench, self._beats = bench, beats
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while self._bench.status()["state"] != "confirming":
            time.sleep(0.01)
        for beat in self._beats:
            write_beat(self._bench.site, beat)
            time.sleep(0.3)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._thread.join()


def beats(generation: int, *are_ok: bool) -> list[Beat]:
    return [
        Beat(generation, number, 7, is_ok, "" if is_ok else "it answers NaN") for number, is_ok in enumerate(are_ok)
    ]


def test_healthy_beats_of_the_new_generation_confirm_it(trial) -> None:
    release = trial.release(2)
    with Application(trial, beats(2, True, True)):
        assert trial.install(release).result == "installed"
    assert trial.runs() == release.sha256


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (beats(2, True, False, False), "reports it as ill: it answers NaN"),
        (beats(1, True, True, True), "no 2 healthy heartbeats"),
        (beats(2, True, False, True), "no 2 healthy heartbeats"),
        ([], "no 2 healthy heartbeats"),
    ],
    ids=["ill", "of the old generation", "not in a row", "none"],
)
def test_all_else_goes_back(trial, given, words) -> None:
    before = trial.runs()
    trial.settings = dataclasses.replace(trial.settings, confirm_minutes=1.5 / 60)
    with Application(trial, given), pytest.raises(AgentError, match=words) as caught:
        trial.install(trial.release(2))
    assert (caught.value.kind, caught.value.exit_code) == ("unconfirmed", 3)
    assert trial.runs() == before
    assert trial.status()["last"]["result"] == "reverted"


def test_the_same_beat_does_not_count_twice(trial) -> None:
    write_beat(trial.site, Beat(2, 1, 7, True, ""))
    trial.settings = dataclasses.replace(trial.settings, confirm_minutes=0.5 / 60)
    with pytest.raises(AgentError, match="no 2 healthy"):
        trial.install(trial.release(2))


def test_operator_may_confirm_at_once(trial) -> None:
    def confirm() -> None:
        while trial.status()["state"] != "confirming":
            time.sleep(0.01)
        approve(trial.site, 2)

    thread = threading.Thread(target=confirm)
    thread.start()
    assert trial.install(trial.release(2)).result == "installed"
    thread.join()


def test_approval_of_an_earlier_trial_is_forgotten(trial) -> None:
    approve(trial.site, 2)
    trial.settings = dataclasses.replace(trial.settings, confirm_minutes=0.5 / 60)
    with pytest.raises(AgentError):
        trial.install(trial.release(2))


@pytest.mark.parametrize("document", [{}, {"generation": "x"}, {"generation": 1, "sequence": [], "pid": 1}])
def test_beat_that_makes_no_sense_is_none(bench, document) -> None:
    documents.write_lightly(bench.layout.heartbeat, document)
    assert read_beat(bench.site) is None
