"""Networks that train in the same steps: each as it would alone, sharing nothing but the batch and what they show."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from edgekd.core.errors import ConfigError
from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.roles import open_session
from edgekd.distill.sources import SOURCES, Asker
from edgekd.distill.specs import StageSpec
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step

CE = [{"type": "cross-entropy"}]
KD = [{"type": "cross-entropy", "weight": 0.3}, {"type": "kd", "weight": 0.7, "temperature": 2.0}]
ROLES = {"twin": {"like": "student"}, "middle": {"between": 0.5}}
STEP = Step(0, 4, 0)


def _recipe(stage, *more, **keys):
    stages = [{"name": "student", **stage}, *more]
    return Recipe(name="t", title="t", roles=ROLES, stages=stages, **keys)


def _session(recipe, student, teacher):
    return open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)


def _stage(stage, student, teacher, **keys):
    session = _session(_recipe(stage, **keys), student, teacher)
    return build_stage(StageSpec(name="student", **stage), session), session


def _assert_equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
@pytest.mark.parametrize("other, terms", [("twin", CE), ("middle", KD), ("teacher", CE)])
def test_learners_beside_each_other_are_separate_runs(train, other, terms, max_grad_norm):
    mine = {"terms": KD, "lr": 0.7}
    beside = {"learner": other, "terms": terms, "head_lr": 2.0}
    source = {"type": "self"} if other == "teacher" else {"type": "frozen"}
    beside["source"] = source
    if other == "teacher":
        mine = {**mine, "source": {"type": "self"}}
    joint = train(_recipe({**mine, "beside": [beside]}), max_grad_norm=max_grad_norm)
    alone = train(_recipe(mine), max_grad_norm=max_grad_norm)
    apart = train(_recipe(beside), max_grad_norm=max_grad_norm)
    _assert_equal(joint.net("student"), alone.net("student"))
    _assert_equal(joint.net(other), apart.net(other))
    assert not torch.equal(*(s.net(other).backbone.net.conv1.weight for s in (joint, alone)))


def test_gradients_are_unscaled_once_a_step_and_for_the_stages_own_optimizer(train, monkeypatch):
    asked = []
    monkeypatch.setattr(Accelerator, "unscale_gradients", lambda self, optimizer=None: asked.append(optimizer))
    twin = {"learner": "twin", "source": {"type": "self"}, "terms": CE}
    first = {"source": {"type": "self"}, "terms": CE, "beside": [twin]}
    train(_recipe(first, {"name": "again", "source": {"type": "self"}, "terms": CE}), max_grad_norm=1.0)
    steps = 2 * (128 // 32)
    assert len(asked) == 2 * steps
    assert [asked.count(asked[0]), asked.count(asked[-1])] == [steps, steps]
    assert None not in asked


def test_a_live_trace_is_this_steps_and_carries_no_gradient(student, teacher, batch):
    spec = {
        "source": {"type": "live", "roles": ["twin"]},
        "terms": [{"type": "kd", "temperature": 2.0}],
        "beside": [{"learner": "twin", "source": {"type": "self"}, "terms": [{"type": "kd", "temperature": 2.0}]}],
    }
    stage, session = _stage(spec, student, teacher)
    losses = stage.learners(batch, STEP)
    with torch.no_grad():
        z, t = (session.net(role)(batch.inputs).logits.double().numpy() for role in ("student", "twin"))
    p, q = (np.exp(x / 2) / np.exp(x / 2).sum(axis=1, keepdims=True) for x in (t, z))
    assert losses.by_term["kd"].item() == pytest.approx(4 * (p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)
    losses.total.backward()
    assert all(parameter.grad.abs().sum() < 1e-6 for parameter in session.net("twin").parameters())
    assert session.net("student").backbone.net.conv1.weight.grad.abs().sum() > 0
    live = {role: session.net(role)(batch.inputs) for role in ("student", "twin")}
    shown = SOURCES["live"](Asker("student", session, ("student", "twin")), roles=("twin",))(batch, STEP, live)
    assert live["twin"].logits.requires_grad and not shown["twin"].logits.requires_grad


def test_terms_compare_with_the_targets_they_name(student, teacher, batch):
    terms = [
        {"type": "kd", "temperature": 2.0, "weight": 3.0},
        {"type": "kd", "temperature": 2.0, "weight": 5.0, "of": ["middle"]},
        {"type": "kd", "temperature": 1.0, "weight": 7.0, "of": ["twin", "teacher"]},
    ]
    sources = [{"type": "frozen", "roles": ["teacher", "twin"]}, {"type": "frozen", "roles": ["middle"]}]
    stage, session = _stage({"source": sources, "terms": terms}, student, teacher)
    losses = stage.learners(batch, STEP)

    def kd(role, temperature):
        with torch.no_grad():
            z = session.net("student")(batch.inputs).logits.double() / temperature
            t = session.net(role)(batch.inputs).logits.double() / temperature
        p, q = t.softmax(1).numpy(), z.softmax(1).numpy()
        return temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()

    everyone = sum(kd(role, 2.0) for role in ("teacher", "twin", "middle"))
    expected = 3 * everyone + 5 * kd("middle", 2.0) + 7 * (kd("twin", 1.0) + kd("teacher", 1.0))
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    assert set(losses.by_term) == {"kd", "kd middle", "kd twin teacher"}


def test_a_weight_that_is_decided_anew_is_recorded_beside_its_term(student, teacher, batch):
    weight = {"type": "teacher-confidence", "value": 0.5}
    terms = [*CE, {"type": "kd", "weight": weight}]
    stage, session = _stage({"terms": terms}, student, teacher)
    losses = stage.learners(batch, STEP)
    with torch.no_grad():
        p = session.net("teacher")(batch.inputs).logits.double().softmax(1).numpy()
    confidence = 1 + (p * np.log(p)).sum(axis=1) / np.log(4)
    assert losses.by_term["kd weight"].item() == pytest.approx(0.5 * confidence.mean(), rel=1e-4)
    assert "cross-entropy weight" not in losses.by_term


@pytest.mark.parametrize("train_only", [["backbone", "attachments"], ["head"], ["attachments"]])
def test_learning_rates_are_by_part(student, teacher, train_only):
    keys = {"attach": {"student": {"exit": {"type": "exit", "at": 0}}}}
    terms = [{"type": "cross-entropy", "part": "aux:exit.logits"}, {"type": "fitnet", "pairs": "last"}]
    spec = {"terms": terms, "train": train_only, "lr": 0.5, "head_lr": 4.0}
    stage, session = _stage(spec, student, teacher, **keys)
    by_id = {id(parameter): group.lr for group in stage.groups for parameter in group.parameters}
    net, (learner,) = session.net("student"), tuple(stage.learners)
    expected = {}
    for name, parameter in net.backbone.named_parameters():
        is_head = name.startswith("net.linear")
        if "backbone" in train_only or (is_head and "head" in train_only):
            expected[id(parameter)] = 2.0 if is_head else 0.5
    if "attachments" in train_only:
        expected |= {id(parameter): 2.0 for parameter in net.attachments.parameters()}
    adapters = list(learner.terms.parameters())
    assert adapters
    expected |= {id(parameter): 2.0 for parameter in adapters}
    assert by_id == expected


@pytest.mark.parametrize(
    "stage, fragment",
    [
        ({"beside": [{"learner": "student", "terms": CE}], "terms": CE}, "learns once in a stage"),
        ({"source": {"type": "live", "roles": ["twin"]}, "terms": KD}, "'twin'.*student"),
        (
            {"terms": KD, "beside": [{"learner": "teacher", "source": {"type": "self"}, "terms": CE}]},
            "teacher trains in this stage.*live",
        ),
        ({"terms": [{"type": "kd", "of": ["teecher"]}]}, "unknown target of term 'kd teecher'.*teacher"),
        ({"source": {"type": "ensemble", "roles": ["twin"]}, "terms": [{"type": "kd", "of": ["twin"]}]}, "ensemble"),
    ],
)
def test_a_stage_whose_networks_do_not_fit_is_refused(student, teacher, stage, fragment):
    with pytest.raises(ConfigError, match=fragment):
        _stage(stage, student, teacher)


@pytest.mark.parametrize(
    "document, fragment",
    [
        ({"stages": [{"name": "s", "learner": "twinn", "terms": CE}]}, "unknown role 'twinn'; did you mean twin"),
        (
            {"stages": [{"name": "s", "source": {"type": "frozen", "roles": ["midle"]}, "terms": CE}]},
            "unknown role 'midle'; did you mean middle",
        ),
        (
            {"stages": [{"name": "s", "terms": CE, "beside": [{"learner": "peer", "terms": CE}]}]},
            "unknown role 'peer'",
        ),
        ({"attach": {"twinn": {}}, "stages": [{"name": "s", "terms": CE}]}, "unknown role 'twinn'"),
        ({"roles": {"self": {"like": "student"}}, "stages": [{"name": "s", "terms": CE}]}, "role 'self'"),
        ({"roles": {"teacher": {"like": "student"}}, "stages": [{"name": "s", "terms": CE}]}, "role 'teacher'"),
        ({"roles": {"a": {}}, "stages": [{"name": "s", "terms": CE}]}, "give either like or between"),
        (
            {"stages": [{"name": "s", "terms": [{"type": "kd", "weight": {"policy": "p"}}]}]},
            "unknown policy 'p'",
        ),
    ],
)
def test_a_recipe_that_names_what_is_not_there_is_refused_when_it_is_read(tmp_path, document, fragment):
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "t", "title": "t", "roles": ROLES, **document}))
    with pytest.raises(ConfigError, match=fragment):
        load_recipe(str(path))
