"""Distillation from an ensemble and from a network like the student."""

import numpy as np
import pytest
import torch

from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.roles import open_session
from edgekd.distill.specs import SourceSpec
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step

MEMBERS = ("member1", "member2", "member3")
PLAIN = {"source": {"type": "self"}, "terms": [{"type": "cross-entropy"}]}


def _is_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _softmax(z, temperature=1.0):
    e = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    return e / e.sum(axis=1, keepdims=True)


def test_members_are_teachers_trained_apart(train):
    session = train("ensemble")
    for name in MEMBERS:
        alone = Recipe(
            name="t", title="t", roles={name: {"like": "teacher"}}, stages=[{"name": name, "learner": name, **PLAIN}]
        )
        assert _is_equal(session.net(name), train(alone).net(name))
    first, second, third = (session.net(name) for name in MEMBERS)
    assert not _is_equal(first, second) and not _is_equal(second, third)


def test_the_target_is_the_mean_probability_softened_afterwards(student, teacher, batch):
    recipe = load_recipe("ensemble")
    session = open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)
    with torch.no_grad():
        for index, name in enumerate(MEMBERS):
            session.net(name).backbone.net.linear.weight.mul_(3.0 * (index + 1))
    losses = build_stage(recipe.stages[-1], session).learners(batch, Step(0, 1, 0))
    with torch.no_grad():
        z = session.net("student")(batch.inputs).logits.double().numpy()
        members = [session.net(name)(batch.inputs).logits.double().numpy() for name in MEMBERS]
    target = _softmax(np.log(np.mean([_softmax(t) for t in members], axis=0)), 4.0)
    expected = 16 * (target * np.log(target / _softmax(z, 4.0))).sum(axis=1).mean()
    assert losses.total.item() == pytest.approx(expected, rel=1e-4)
    of_logits = _softmax(np.mean(members, axis=0), 4.0)
    wrong = 16 * (of_logits * np.log(of_logits / _softmax(z, 4.0))).sum(axis=1).mean()
    assert abs(wrong - expected) > 0.01 * expected


def test_an_ensemble_of_one_network_is_that_network(train):
    recipe = load_recipe("ensemble")
    last = recipe.stages[-1]
    same = last.model_copy(update={"source": (SourceSpec(type="ensemble", roles=["teacher"] * 3),)})
    one = train(recipe.model_copy(update={"stages": (same,)})).net("student").state_dict()
    kd = last.model_copy(update={"source": (SourceSpec(),)})
    other = train(recipe.model_copy(update={"stages": (kd,)})).net("student").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)


def test_the_elder_is_a_student_trained_on_labels_and_then_frozen(train):
    session = train("self-distillation")
    stage = {"name": "elder", "learner": "elder", **PLAIN}
    alone = train(Recipe(name="t", title="t", roles={"elder": {"like": "student"}}, stages=[stage]))
    assert _is_equal(session.net("elder"), alone.net("elder"))
    elder, youth = (dict(session.net(role).backbone.named_parameters()) for role in ("elder", "student"))
    assert {name: value.shape for name, value in elder.items()} == {name: value.shape for name, value in youth.items()}
    assert not _is_equal(session.net("elder"), session.net("student"))


def test_self_distillation_reads_no_teacher(run):
    with_teacher, without = (run("self-distillation", with_teacher=given).student for given in (True, False))
    assert _is_equal(with_teacher, without)


def test_the_divergence_is_the_papers_soft_cross_entropy_but_for_a_constant(student, teacher, batch):
    recipe = load_recipe("self-distillation")
    session = open_session(recipe, student=student, teacher=None, input_shape=(1, 8, 8), seed=0)
    losses = build_stage(recipe.stages[-1], session).learners(batch, Step(0, 1, 0))
    losses.total.backward()
    weight = session.net("student").backbone.net.linear.weight
    gradient = weight.grad.clone()
    weight.grad = None
    with torch.no_grad():
        target = (session.net("elder")(batch.inputs).logits / 4).softmax(dim=1)
    soft = -16 * (target * (session.net("student")(batch.inputs).logits / 4).log_softmax(dim=1)).sum(dim=1).mean()
    soft.backward()
    torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)
    entropy = -16 * (target * target.log()).sum(dim=1).mean()
    torch.testing.assert_close(soft.detach() - entropy, losses.total.detach(), rtol=1e-3, atol=1e-5)
