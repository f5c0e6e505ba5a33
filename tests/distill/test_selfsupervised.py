"""SSKD: the rotated view of a batch, what it may not leak, and what its recipe is without its own terms."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.terms import SimilarityTransfer, Step, TransformedKD
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.distill.views import VIEWS, Rotations

STEP = Step(0, 1, 0)


@pytest.fixture
def batch():
    inputs = torch.arange(2 * 9, dtype=torch.float32).reshape(2, 1, 3, 3)
    return Batch(inputs, torch.tensor([3, 1]), torch.tensor([10, 11]), torch.tensor([True, False]))


def test_rotations_are_adjacent_and_turn_as_numpy_does(batch):
    turned = Rotations()(batch, STEP)
    for image in range(2):
        for quarter in range(4):
            expected = np.rot90(batch.inputs[image, 0].numpy(), quarter)
            assert np.array_equal(turned.inputs[4 * image + quarter, 0].numpy(), expected)
    assert turned.ids.tolist() == [10] * 4 + [11] * 4
    assert turned.labels.tolist() == [3] * 4 + [1] * 4


@pytest.mark.parametrize("shape", [(2, 7), (2, 1, 8, 6)])
def test_what_is_no_square_picture_is_refused_in_words(batch, shape):
    with pytest.raises(ConfigError, match=rf"square pictures \[C, H, H\], these inputs are \[{shape[1]}"):
        Rotations()(replace(batch, inputs=torch.zeros(shape)), STEP)


def test_only_untransformed_labelled_rows_stay_labelled(batch):
    assert Rotations()(batch, STEP).is_labelled.tolist() == [True] + [False] * 7


def test_without_rotated_rows_and_their_terms_it_is_kd(run):
    sskd = load_recipe("sskd")
    last = sskd.stages[-1]
    kept = tuple(term for term in last.terms if term.type in ("cross-entropy", "kd"))
    reduced = sskd.model_copy(update={"stages": (last.model_copy(update={"terms": kept, "views": ()}),)})
    one, other = run(reduced).student.state_dict(), run("kd").student.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_first_stage_trains_the_teachers_head_and_nothing_else(run, teacher):
    before = copy.deepcopy(teacher[1].state_dict())
    history = run("sskd").history
    assert all(torch.equal(before[name], value) for name, value in teacher[1].state_dict().items())
    assert history[0].stage == "teacher-head"
    assert set(history[0].terms) == {"self-supervision"}


def test_training_the_head_lowers_its_loss(run):
    recipe = load_recipe("sskd")
    longer = recipe.stages[0].model_copy(update={"epochs": 10.0})
    history = run(recipe.model_copy(update={"stages": (longer, recipe.stages[1])})).history
    losses = [record.loss for record in history if record.stage == "teacher-head"]
    assert losses[-1] < min(losses[:3])


def test_labels_of_rotated_rows_reach_no_cross_entropy(run, monkeypatch):
    def poison(batch, step):
        return Batch(batch.inputs, batch.labels.where(batch.is_labelled, -1), batch.ids, batch.is_labelled)

    monkeypatch.setitem(VIEWS._items, "poison", lambda: poison)

    def plain(*views):
        stage = {"name": "student", "source": {"type": "self"}, "views": views, "terms": [{"type": "cross-entropy"}]}
        return run(Recipe(name="t", title="t", stages=[stage])).student.state_dict()

    clean, poisoned = plain("rotations"), plain("rotations", "poison")
    assert all(torch.equal(clean[name], poisoned[name]) for name in clean)


def test_terms_refuse_senseless_options():
    spec = TraceSpec(4, {}, "", {"head.projection": (8,)})
    with pytest.raises(ConfigError, match=r"ratio in 0..1"):
        TransformedKD(spec, spec, ratio=1.2)
    with pytest.raises(ConfigError, match="temperature"):
        SimilarityTransfer(spec, spec, temperature=0.0)
    with pytest.raises(ConfigError, match="unknown attachment output"):
        SimilarityTransfer(TraceSpec(4, {}, ""), spec)


def test_transformed_kd_uses_labels_of_unlabelled_rows_for_ranking_only(batch):
    spec = TraceSpec(4, {}, "")
    turned = Rotations()(batch, STEP)
    logits = torch.randn(8, 4)
    trace = Trace(logits, {}, {}, turned.inputs)
    assert TransformedKD(spec, spec)(trace, trace, turned, STEP).abs().max() < 1e-6
