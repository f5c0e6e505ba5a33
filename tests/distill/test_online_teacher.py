"""Teachers that learn with or before the student: EKD's live one and its guided modules, and a recorded trajectory."""

import numpy as np
import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.distill import check_recipe, fidelity, load_recipe
from edgekd.distill.branches import GuidedModule
from edgekd.distill.roles import open_session
from edgekd.distill.specs import SourceSpec
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step
from edgekd.distill.trace import TraceSpec

STEP = Step(0, 4, 0)
GUIDES = ("guide1", "guide2", "guide3")


def _is_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _open(recipe, student, teacher):
    return open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)


def _replaced(recipe, **changes):
    """Change the last stage of a recipe."""
    return recipe.model_copy(update={"stages": (*recipe.stages[:-1], recipe.stages[-1].model_copy(update=changes))})


def test_the_teacher_learns_as_it_would_without_the_student(train):
    ekd = load_recipe("ekd")
    (beside,) = ekd.stages[0].beside
    own = {key: getattr(beside, key) for key in ("learner", "start", "source", "terms")}
    lonely = _replaced(ekd.model_copy(update={"attach": {"teacher": ekd.attach["teacher"]}}), beside=(), **own)
    for epochs in (1, 3):
        joint, alone = train(ekd, epochs=epochs), train(lonely, epochs=epochs)
        assert _is_equal(joint.net("teacher"), alone.net("teacher"))


def test_the_teacher_is_new_and_moves_at_every_step(student, teacher, batch):
    ekd = load_recipe("ekd")
    session = _open(ekd, student, teacher)
    stage = build_stage(ekd.stages[0], session)
    assert not torch.equal(session.net("teacher").backbone.net.conv1.weight, teacher[1].net.conv1.weight)
    stage.learners(batch, STEP).total.backward()
    for role in ("student", "teacher"):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in session.net(role).parameters()), role


def test_a_teacher_that_learns_along_is_near_where_a_converged_one_is_far(train, dataset, teacher):
    session = train("ekd", epochs=1)
    nets = {role: session.net(role).backbone.eval() for role in ("student", "teacher")}
    live = fidelity(nets, dataset.train)["kl"]
    converged = fidelity({**nets, "teacher": teacher[1]}, dataset.train)["kl"]
    assert live < 0.5 * converged


def _ce(z, labels):
    return -(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))[np.arange(len(z)), labels].mean()


def _kd3(z, t):
    p, q = (np.exp(x / 3) / np.exp(x / 3).sum(axis=1, keepdims=True) for x in (t, z))
    return 9 * (p * np.log(p / q)).sum(axis=1).mean()


def test_with_its_teacher_frozen_it_is_block_wise_distillation(student, teacher, batch):
    ekd = load_recipe("ekd")
    (beside,) = ekd.stages[0].beside
    converged = _replaced(ekd, beside=(beside.model_copy(update={"start": "as-is"}),))
    session = _open(ekd, student, teacher)
    stage = build_stage(converged.stages[0], session)
    session.net("teacher").freeze()
    live = stage.learners.first.losses(
        batch, STEP, {role: session.net(role)(batch.inputs) for role in ("student", "teacher")}
    )
    live.total.backward()
    other = _open(ekd, student, teacher)
    frozen = build_stage(_replaced(ekd, beside=(), source=(SourceSpec(),)).stages[0], other)
    losses = frozen.learners(batch, STEP)
    losses.total.backward()
    assert live.by_term == losses.by_term
    for one, two in zip(session.net("student").parameters(), other.net("student").parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    with torch.no_grad():
        mine, theirs = (other.net(role)(batch.inputs) for role in ("student", "teacher"))
    labels = batch.labels.numpy()
    heads = [(mine.logits, theirs.logits)]
    heads += [tuple(trace.aux[f"{guide}.logits"] for trace in (mine, theirs)) for guide in GUIDES]
    heads = [tuple(x.double().numpy() for x in pair) for pair in heads]
    embeddings = [tuple(trace.aux[f"{guide}.embedding"].double() for trace in (mine, theirs)) for guide in GUIDES]
    expected = sum(_ce(z, labels) + _kd3(z, t) for z, t in heads)
    expected += 0.03 * sum((f - g).square().mean().item() for f, g in embeddings)
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(5, 16, 16), (5, 7, 7), (5, 2, 2)])
def test_guided_modules_give_one_shape_whatever_the_map(shape):
    spec = TraceSpec(7, {"a": shape, "b": (3, 1, 1), "c": (3, 1, 1)}, "c")
    module = GuidedModule(spec, "g", at="first", width=8, side=4).eval()
    out = module({"a": torch.rand(3, *shape)})
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "g.embedding": (3, 8, 4, 4),
        "g.logits": (3, 7),
    }
    torch.testing.assert_close(out["g.logits"], module.classifier(out["g.embedding"].flatten(2).mean(2)))


def test_guided_modules_sit_after_the_first_middle_and_last_map(student, teacher):
    session = _open(load_recipe("ekd"), student, teacher)
    for role in ("student", "teacher"):
        reads = [session.net(role).attachments[guide].reads for guide in GUIDES]
        assert reads == [("net.layer1.0",), ("net.layer2.0",), ("net.layer3.0",)]


def test_guided_modules_refuse_sizes_that_make_no_sense():
    spec = TraceSpec(7, {"a": (5, 8, 8)}, "a")
    for options in ({"width": 3}, {"side": 0}):
        with pytest.raises(ConfigError, match="guided module 'g'"):
            GuidedModule(spec, "g", at="first", **options)


def test_one_checkpoint_is_distillation_from_the_final_teacher(train):
    online = load_recipe("online-checkpoints")
    (first, last) = online.stages
    single = online.model_copy(update={"stages": (first.model_copy(update={"record": 1}), last)})
    offline = online.model_copy(
        update={"stages": (first.model_copy(update={"record": 0}), last.model_copy(update={"source": (SourceSpec(),)}))}
    )
    assert last.terms == load_recipe("kd").stages[0].terms
    for select in ("best", "last"):
        kept = {"epochs": 3, "select": select}
        expected = train(offline, **kept)
        assert _is_equal(train(single, **kept).net("student"), expected.net("student"))
        assert not _is_equal(train(online, **kept).net("student"), expected.net("student"))


def test_the_student_follows_the_teacher_from_its_first_state_to_its_last(train, monkeypatch):
    from edgekd.distill import sources

    seen = []

    def spied(checkpoints, progress, real=sources.checkpoint_at):
        found = real(checkpoints, progress)
        seen.append((progress, found.progress))
        return found

    monkeypatch.setattr(sources, "checkpoint_at", spied)
    train("online-checkpoints", epochs=4)
    assert len(seen) == 16
    assert [found for _, found in seen] == [0.25] * 5 + [0.5] * 4 + [0.75] * 4 + [1.0] * 3
    assert all(progress <= found < progress + 0.25 or progress == 0 for progress, found in seen)


@pytest.mark.parametrize("name", ["online-checkpoints", "ekd", "sftn-full", "ensemble"])
def test_a_teacher_that_cannot_be_built_anew_is_refused_before_training(dataset, student, teacher, name):
    elsewhere = (NetSpec("python", 0, 0, 8, 1, 4, (0.3,), (0.2,), {"model": "mine.py:net"}), teacher[1])
    with pytest.raises(ConfigError, match="not one of edgekd's families"):
        check_recipe(load_recipe(name), student=student, teacher=elsewhere, dataset=dataset, batch_size=32)
