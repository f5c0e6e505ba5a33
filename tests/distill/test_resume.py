"""A run that is interrupted after every epoch gives, bit for bit, what one gives that is not."""

import math
import time

import pytest
import torch

from edgekd.core.errors import ConfigError, StorageError
from edgekd.data import Batch
from edgekd.distill import Paused, Recipe, Resumption
from edgekd.distill.step import Step
from edgekd.distill.trace import Trace
from edgekd.distill.tree_file import load_tree, save_tree
from edgekd.distill.weighers import Balanced, Moment


def _in_slices(run, recipe, path, **options):
    pauses = 0
    while True:
        try:
            return run(recipe, resume=Resumption(path, stop_at=-math.inf), **options), pauses
        except Paused:
            pauses += 1
            assert path.exists()


def _assert_same(one, other):
    mine, theirs = one.student.state_dict(), other.student.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)
    assert [(epoch.loss, epoch.val_score, epoch.terms) for epoch in one.history] == [
        (epoch.loss, epoch.val_score, epoch.terms) for epoch in other.history
    ]


# Adapters, attachments of both networks, masks by chance, learned temperatures, margins, trajectories, live networks,
# memory banks, what is prepared before a stage, policies in the middle of an episode.
METHODS = [
    "crd", "ctkd", "curriculum-extraction", "dgkd-stochastic", "ekd", "kcd-trained", "knowledge-selection", "mas",
    "mgd", "ofd", "online-checkpoints", "rl-kd", "sskd", "xcl",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_run_in_slices_of_one_epoch_is_the_run_in_one_piece(run, tmp_path, method):
    path = tmp_path / "state.safetensors"
    whole = run(method, seed=2)
    sliced, pauses = _in_slices(run, method, path, seed=2)
    _assert_same(whole, sliced)
    assert pauses == len(whole.history) and not path.exists()


def test_balanced_weights_go_on_from_their_means(run, tmp_path):
    terms = [
        {"type": "cross-entropy"},
        {"type": "similarity-preserving", "weight": {"type": "balanced", "memory": 0.9}},
    ]
    recipe = Recipe(name="test", title="test", stages=[{"name": "student", "terms": terms}])
    sliced, _ = _in_slices(run, recipe, tmp_path / "state.safetensors")
    _assert_same(run(recipe), sliced)


def test_the_best_epoch_survives_an_interruption(run, tmp_path, settings):
    best = settings.model_copy(update={"epochs": 4, "lr": 0.4, "select": "best"})
    sliced, _ = _in_slices(run, "kd", tmp_path / "state.safetensors", settings=best)
    _assert_same(run("kd", settings=best), sliced)


def test_state_is_kept_at_most_so_often_and_pausing_waits_for_the_deadline(run, tmp_path):
    path = tmp_path / "state.safetensors"
    rare = Resumption(path, stop_at=time.monotonic() + 600, every_s=600)
    _assert_same(run("kd"), run("kd", resume=rare))
    assert not path.exists()


def test_the_state_of_another_run_is_refused(run, tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Paused, match="epoch 1; run again to go on from .*state.safetensors"):
        run("kd", resume=Resumption(path, stop_at=-math.inf))
    for change in ({"recipe": "dkd"}, {"recipe": "kd", "seed": 1}):
        with pytest.raises(ConfigError, match="is the state of another run: remove it"):
            run(resume=Resumption(path), **change)


def test_a_tree_comes_back_as_it_was(tmp_path):
    tree = {
        "tensors": [torch.arange(3), {"scalar": torch.tensor(2.5, dtype=torch.float64)}],
        "none": None,
        "infinite": -math.inf,
        "nested": {"text": "a", "flags": [True, 1, 0.1]},
        "empty": [{}, []],
    }
    save_tree(tmp_path / "tree.safetensors", tree)
    again = load_tree(tmp_path / "tree.safetensors")
    assert torch.equal(again["tensors"][0], tree["tensors"][0])
    assert again["tensors"][1]["scalar"].dtype is torch.float64 and again["tensors"][1]["scalar"] == 2.5
    assert {**again, "tensors": 0} == {**tree, "tensors": 0}


def test_damaged_state_says_what_to_do(tmp_path):
    path = tmp_path / "tree.safetensors"
    save_tree(path, {"one": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(StorageError, match="remove it to start again"):
        load_tree(path)


def test_a_policy_without_state_is_refused_before_training(run, tmp_path, dataset, student, teacher):
    from edgekd.distill.resume import Bookmark
    from edgekd.distill.session import Session

    session = Session({}, (1, 8, 8), 0, policies={"mine": object()})
    with pytest.raises(ConfigError, match="policy 'mine' keeps no state"):
        Bookmark.open(Resumption(tmp_path / "x.safetensors"), session, key="k", device=torch.device("cpu"))


def test_balanced_remembers_its_mean():
    one, other = Balanced(), Balanced()
    batch, trace = Batch(*[torch.zeros(2)] * 4), Trace(torch.zeros(2, 4), {}, {}, torch.zeros(2))
    moments = [Moment(torch.full((2, 1), size), trace, (), batch, Step(0, 9, 0)) for size in (3.0, 5.0)]
    one(moments[0])
    other.remember(one.memory())
    assert one(moments[1]) == other(moments[1]) != Balanced()(moments[1])
