"""Two students and a teacher trusted as far as it is certain: symmetry, separability, and a teacher that is not."""

import numpy as np
import pytest
import torch

from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.roles import open_session
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step
from edgekd.models import count_macs

STEP = Step(0, 4, 0)


def _is_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _both(change):
    """Change the terms of the student and of its peer."""
    recipe = load_recipe("dual-student")
    (stage,) = recipe.stages
    (peer,) = stage.beside
    peer = peer.model_copy(update={"terms": change(peer.terms)})
    return recipe.model_copy(
        update={"stages": (stage.model_copy(update={"terms": change(stage.terms), "beside": (peer,)}),)}
    )


def _open(recipe, student, teacher):
    return open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)


def _logits(session, role, inputs):
    with torch.no_grad():
        return session.net(role)(inputs).logits.double().numpy()


def _softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def _kl_rows(p, q):
    return (p * np.log(p / q)).sum(axis=1)


def test_full_confidence_and_no_peer_is_two_runs_of_kd(train):
    def certain(terms):
        return (terms[0], terms[1].model_copy(update={"weight": 0.5}), terms[2].model_copy(update={"weight": 0.0}))

    joint = train(_both(certain))
    kd = [{"type": "cross-entropy", "weight": 0.5}, {"type": "kd", "temperature": 4.0, "weight": 0.5}]
    for role in ("student", "peer"):
        stage = {"name": "student", "learner": role, "terms": kd}
        alone = train(Recipe(name="t", title="t", roles=load_recipe("dual-student").roles, stages=[stage]))
        assert _is_equal(joint.net(role), alone.net(role))


def test_the_order_of_the_students_changes_nothing(train):
    recipe = load_recipe("dual-student")
    (stage,) = recipe.stages
    (peer,) = stage.beside
    keys = ("learner", "source", "terms")
    mine = {key: getattr(stage, key) for key in keys}
    swapped = stage.model_copy(
        update={**{key: getattr(peer, key) for key in keys}, "beside": (peer.model_copy(update=mine),)}
    )
    one, other = train(recipe), train(recipe.model_copy(update={"stages": (swapped,)}))
    assert _is_equal(one.net("student"), other.net("student"))
    assert _is_equal(one.net("peer"), other.net("peer"))


def test_the_loss_is_the_papers_sum_with_the_weight_inside_the_mean(student, teacher, batch):
    recipe = load_recipe("dual-student")
    session = _open(recipe, student, teacher)
    stage = build_stage(recipe.stages[0], session)
    losses = stage.learners(batch, STEP)
    z = {role: _logits(session, role, batch.inputs) for role in ("student", "peer", "teacher")}
    p = _softmax(z["teacher"])
    w = 1 + (p * np.log(p)).sum(axis=1) / np.log(4)
    expected = 0.0
    for own, other in (("student", "peer"), ("peer", "student")):
        hard = -np.log(_softmax(z[own]))[np.arange(len(p)), batch.labels.numpy()].mean()
        soft = 16 * _kl_rows(_softmax(z["teacher"] / 4), _softmax(z[own] / 4))
        peers = 16 * _kl_rows(_softmax(z[other] / 4), _softmax(z[own] / 4)).mean()
        expected += 0.5 * hard + 0.5 * (w * soft).mean() + 0.2 * peers
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    assert losses.by_term["kd teacher weight"].item() == pytest.approx(0.5 * w.mean(), rel=1e-4)
    assert 0.1 < w.mean() < 0.95


def test_the_peers_answer_is_a_fixed_target(student, teacher, batch):
    def peers_only(terms):
        return (terms[2],)

    session = _open(_both(peers_only), student, teacher)
    (stage,) = _both(peers_only).stages
    with_both = build_stage(stage, session)
    with_both.learners(batch, STEP).total.backward()
    gradient = session.net("student").backbone.net.linear.weight.grad.clone()
    peer = _logits(session, "peer", batch.inputs)
    session.net("student").zero_grad()
    trace = session.net("student")(batch.inputs)
    soft = torch.tensor(_softmax(peer / 4), dtype=torch.float32)
    kl = (soft * (soft.log() - (trace.logits / 4).log_softmax(1))).sum(dim=1).mean()
    (0.2 * 16 * kl).backward()
    torch.testing.assert_close(session.net("student").backbone.net.linear.weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_teacher_that_knows_nothing_teaches_nothing(student, teacher, batch):
    def teachers_only(terms):
        return (terms[1],)

    gradients = {}
    for scale in (1.0, 0.0):
        session = _open(_both(teachers_only), student, teacher)
        for parameter in session.net("teacher").backbone.net.linear.parameters():
            parameter.data.mul_(scale)
        build_stage(_both(teachers_only).stages[0], session).learners(batch, STEP).total.backward()
        gradients[scale] = [p.grad.abs().max().item() for p in session.net("student").backbone.parameters()]
    assert max(gradients[0.0]) < 1e-5
    assert max(gradients[1.0]) > 1e-2


def test_the_peer_is_a_network_of_another_size(student, teacher):
    session = _open(load_recipe("dual-student"), student, teacher)
    macs = [count_macs(session.net(role).backbone, (1, 8, 8)) for role in ("student", "peer", "teacher")]
    assert macs[0] < macs[1] < macs[2]
