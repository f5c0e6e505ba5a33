"""TAKD and DGKD: what each network of a chain learns, from whom, and where they are plain distillation."""

import numpy as np
import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.distill import load_recipe
from edgekd.distill.roles import open_session
from edgekd.distill.specs import SourceSpec, TermSpec
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step
from edgekd.models import build, count_macs

CHAIN = ("teacher", "assistant1", "assistant2", "student")


def _is_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _with(recipe, change):
    return recipe.model_copy(update={"stages": tuple(change(stage) for stage in recipe.stages)})


def _kd(lam, temperature):
    terms = [TermSpec(type="cross-entropy", weight=1 - lam), TermSpec(type="kd", weight=lam, temperature=temperature)]
    return tuple(term for term in terms if term.weight != 0)


def _without_assistants(recipe):
    last = recipe.stages[-1].model_copy(update={"source": (SourceSpec(),)})
    return recipe.model_copy(update={"roles": {}, "stages": (last,)})


def _nearest_only(stage):
    """Every trainer stays at hand; only the last of them, the smallest, is listened to."""
    nearest = stage.source[0].options.get("roles", ["teacher"])[-1]
    return stage.model_copy(update={"terms": tuple(t.model_copy(update={"of": (nearest,)}) for t in stage.terms)})


@pytest.mark.parametrize(
    "name, lam, temperature", [("takd", 0.9, 4.0), ("dgkd", 1.0, 5.0), ("dgkd-stochastic", 1.0, 5.0)]
)
def test_without_assistants_it_is_kd(train, name, lam, temperature):
    kd = load_recipe("kd")
    terms = _kd(lam, temperature)
    if name == "takd":
        terms = kd.stages[0].terms
    plain_kd = kd.model_copy(update={"stages": (kd.stages[0].model_copy(update={"terms": terms}),)})
    alone = _without_assistants(load_recipe(name))
    assert _is_equal(train(alone).net("student"), train(plain_kd).net("student"))


def test_dgkd_that_listens_to_the_nearest_trainer_only_is_takd(train):
    dgkd, takd = load_recipe("dgkd"), load_recipe("takd")
    chain = _with(takd, lambda stage: stage.model_copy(update={"terms": dgkd.stages[0].terms}))
    one, other = train(_with(dgkd, _nearest_only)), train(chain)
    for role in CHAIN:
        assert _is_equal(one.net(role), other.net(role))
    assert not _is_equal(train(dgkd).net("student"), other.net("student"))


@pytest.mark.parametrize(
    "name, trainers",
    [
        ("takd", {"assistant1": ["teacher"], "assistant2": ["assistant1"], "student": ["assistant2"]}),
        ("dgkd", {role: list(CHAIN[:index]) for index, role in enumerate(CHAIN) if index}),
        ("dgkd-stochastic", {role: list(CHAIN[:index]) for index, role in enumerate(CHAIN) if index}),
    ],
)
def test_every_network_is_taught_by_its_trainers_and_their_losses_are_added(student, teacher, batch, name, trainers):
    recipe = load_recipe(name)
    session = open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)
    for spec in recipe.stages:
        stage = build_stage(spec, session)
        step = Step(3, 10, 0, 5)
        losses = stage.learners(batch, step)
        lam, temperature = (0.9, 4.0) if name == "takd" else (1.0, 5.0)
        with torch.no_grad():
            z = session.net(spec.learner)(batch.inputs).logits.double().numpy()
        log_q = z / temperature - np.log(np.exp(z / temperature).sum(axis=1, keepdims=True))
        soft = []
        for role in trainers[spec.learner]:
            with torch.no_grad():
                t = session.net(role).eval()(batch.inputs).logits.double().numpy() / temperature
            p = np.exp(t) / np.exp(t).sum(axis=1, keepdims=True)
            soft.append(temperature**2 * (p * (np.log(p) - log_q)).sum(axis=1).mean())
        hard = -(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))[np.arange(len(z)), batch.labels.numpy()].mean()
        full = (1 - lam) * hard + lam * sum(soft)
        if spec.learner == "student" and name == "dgkd-stochastic":
            left = [full - one for one in soft]
            assert min(abs(losses.total.item() - value) for value in left) < 1e-5 * full
        else:
            assert losses.total.item() == pytest.approx(full, rel=1e-5)


def test_assistants_are_trained_in_order_and_frozen_afterwards(train):
    recipe = load_recipe("dgkd")
    whole = train(recipe)
    for count, role in enumerate(("assistant1", "assistant2"), start=1):
        part = train(recipe.model_copy(update={"stages": recipe.stages[:count]}))
        assert _is_equal(whole.net(role), part.net(role))


def test_dropping_spares_the_assistants(train):
    dense, dropped = train("dgkd"), train("dgkd-stochastic")
    assert _is_equal(dense.net("assistant2"), dropped.net("assistant2"))
    assert not _is_equal(dense.net("student"), dropped.net("student"))


@pytest.mark.parametrize("name", ["takd", "dgkd", "dgkd-stochastic"])
def test_sizes_fall_from_the_teacher_to_the_student(name):
    small, large = (NetSpec("resnet", d, w, 8, 1, 4, (0.3,), (0.2,)) for d, w in ((8, 2), (20, 16)))
    session = open_session(
        load_recipe(name), student=small, teacher=(large, build(large)), input_shape=(1, 8, 8), seed=0
    )
    macs = [count_macs(session.net(role).backbone, (1, 8, 8)) for role in CHAIN]
    assert macs == sorted(set(macs), reverse=True)


def test_the_authors_lambda_is_divided_by_the_classes_here():
    """`nn.KLDivLoss()` as TAKD and DGKD call it, against the term whose mean is over the batch alone."""
    torch.manual_seed(0)
    z, t, classes, lam, temperature = torch.randn(6, 10), torch.randn(6, 10), 10, 0.4, 5.0
    with pytest.warns(UserWarning, match="batchmean"):
        theirs = torch.nn.KLDivLoss()((z / temperature).log_softmax(1), (t / temperature).softmax(1))
    p, q = ((x.double() / temperature).softmax(1).numpy() for x in (t, z))
    batch_mean = (p * np.log(p / q)).sum(axis=1).mean()
    assert lam * theirs.item() == pytest.approx(lam / classes * batch_mean, rel=1e-5)
