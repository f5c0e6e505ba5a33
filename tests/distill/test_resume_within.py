"""A run that is killed at any step goes on to the very weights, and the very records, of one that is not."""

import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from edgekd.core.errors import StorageError
from edgekd.core.events import Event
from edgekd.distill import Resumption
from edgekd.distill.resume import Bookmark
from edgekd.distill.state_files import StateFiles
from edgekd.distill.tree_file import load_tree, save_tree


class Killed(Exception):
    pass


@pytest.fixture
def killed_after(monkeypatch):
    """Let a run die right after it kept its n-th state; None lets it live. Returns how many states were kept."""
    write, kept = Bookmark._write, [0]

    def go(count):
        kept[0] = 0

        def writing(self, *arguments):
            write(self, *arguments)
            kept[0] += 1
            if kept[0] == count:
                raise Killed

        monkeypatch.setattr(Bookmark, "_write", writing)
        return kept

    return go


def _every_step(tmp_path, **more):
    return Resumption(tmp_path / "state.safetensors", every_s=0, every_steps=1, **more)


def _assert_same(one, other):
    mine, theirs = one.student.state_dict(), other.student.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)
    records = [[replace(epoch, seconds=0) for epoch in outcome.history] for outcome in (one, other)]
    assert records[0] == records[1]


CASES = {
    "kd": {"ema": 0.9, "mixup": 0.4, "cutmix": 1.0, "augment": "shift+randaugment", "workers": 2, "patience": 1},
    "mgd": {"accumulate": 2, "schedule": "wsd", "optimizer": "adamw", "lr": 0.01},
    "crd": {},
    "rl-kd": {},
    "knowledge-selection": {},
    "curriculum-extraction": {"layer_decay": 0.5},
}


@pytest.mark.parametrize("method", CASES)
def test_a_run_that_dies_at_random_steps_is_the_run_in_one_piece(run, tmp_path, settings, killed_after, method):
    changed = settings.model_copy(update=CASES[method])
    whole = run(method, seed=2, settings=changed)
    kept = killed_after(None)
    run(method, seed=2, settings=changed, resume=_every_step(tmp_path))
    for count in random.Random(method).choices(range(1, kept[0] // 2), k=2):
        killed_after(count)
        with pytest.raises(Killed):
            run(method, seed=2, settings=changed, resume=_every_step(tmp_path))
    killed_after(None)
    _assert_same(whole, run(method, seed=2, settings=changed, resume=_every_step(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_state_within_an_epoch_is_gone_on_from_and_not_begun_again(run, tmp_path, killed_after):
    killed_after(6)
    with pytest.raises(Killed):
        run("kd", resume=_every_step(tmp_path))
    kept = killed_after(None)
    run("kd", resume=_every_step(tmp_path))
    # Two epochs of four steps, with a state after each step and each epoch: six of ten were kept before.
    assert kept[0] == 4


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_states_are_kept_and_a_damaged_one_is_passed_over(tmp_path, keep):
    files = StateFiles(tmp_path / "state.safetensors", keep)
    for number in range(5):
        files.write({"number": number})
    assert len(list(tmp_path.iterdir())) == keep
    notes = []
    assert files.newest(notes.append) == {"number": 4} and not notes
    files.path.write_bytes(b"damaged")
    if keep == 1:
        with pytest.raises(StorageError, match="remove it to start again"):
            files.newest(notes.append)
    else:
        assert files.newest(notes.append) == {"number": 3} and "going on from the state before it" in notes[0]
    files.remove()
    assert not list(tmp_path.iterdir()) and files.newest(notes.append) is None


FULL = """
import resource, signal, sys
import torch
from pathlib import Path
from edgekd.core.errors import StorageError
from edgekd.distill.state_files import StateFiles
files = StateFiles(Path(sys.argv[1]) / "state.safetensors", 2)
files.write({"number": 1, "tensor": torch.zeros(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    files.write({"number": 2, "tensor": torch.zeros(100_000)})
except StorageError as error:
    print(error)
"""


def test_a_state_that_does_not_fit_leaves_the_last_good_one(tmp_path):
    script = [sys.executable, "-c", FULL, str(tmp_path)]
    told = subprocess.run(script, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": _paths()})
    assert "cannot write" in told.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    assert load_tree(tmp_path / "state.safetensors")["number"] == 1


def _paths():
    return os.pathsep.join(sys.path)


def test_training_goes_on_where_states_cannot_be_kept_and_says_which_was_the_last(run, tmp_path, monkeypatch):
    told: list[Event] = []
    write, written = StateFiles.write, [0]

    def writing(self, tree):
        written[0] += 1
        if written[0] > 3:
            raise StorageError("cannot write state.safetensors: No space left on device")
        write(self, tree)

    monkeypatch.setattr(StateFiles, "write", writing)
    _assert_same(run("kd"), run("kd", resume=_every_step(tmp_path), listener=told.append))
    notes = [event.message for event in told if event.kind == "note"]
    assert len(notes) == 7
    good = f"the last good one is {tmp_path / 'state.safetensors'}"
    assert "No space left on device" in notes[0] and good in notes[0]


def test_the_weights_of_the_last_and_of_the_best_epoch_are_kept(run, tmp_path, settings):
    scores = [epoch.val_score for epoch in run("kd", settings=settings.model_copy(update={"lr": 0.6})).history]
    run("kd", settings=settings.model_copy(update={"lr": 0.6}), folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"student.safetensors", "student.best.safetensors"}
    same = (tmp_path / "student.safetensors").read_bytes() == (tmp_path / "student.best.safetensors").read_bytes()
    assert same == (scores[-1] >= max(scores))


def test_weights_of_epochs_that_cannot_be_written_stop_nothing(run, tmp_path):
    told: list[Event] = []
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    _assert_same(run("kd"), run("kd", folder=blocked, listener=told.append))
    assert any("cannot write" in event.message and "Training goes on" in event.message for event in told)


def test_a_tree_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="cannot write"):
        save_tree(tmp_path / "file" / "tree.safetensors", {"one": torch.ones(1)})
