"""What stages hand to each other: fresh starts, recordings, repetitions, frozen parts; and the rehearsal."""

import copy
import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.distill import check_recipe, load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.roles import open_session
from edgekd.distill.session import Checkpoint
from edgekd.distill.sources import SOURCES, Asker, checkpoint_at
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step
from edgekd.models import build, count_macs

CE = [{"type": "cross-entropy"}]
PLAIN = {"source": {"type": "self"}, "terms": CE}


def _recipe(*stages, **keys):
    return Recipe(name="t", title="t", stages=[{**PLAIN, **stage} for stage in stages], **keys)


def _state(session, role="student"):
    return session.net(role).backbone.state_dict()


def _is_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _open(recipe, student, teacher):
    return open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)


def test_roles_are_networks_of_their_own_like_student_or_teacher_or_between(student, teacher):
    roles = {"twin": {"like": "student"}, "other": {"like": "teacher"}, "middle": {"between": 0.5}}
    session = _open(_recipe({"name": "a"}, roles=roles), student, teacher)
    assert _state(session, "twin").keys() == _state(session).keys()
    assert not _is_equal(_state(session, "twin"), _state(session))
    assert not _is_equal(_state(session, "other"), _state(session, "teacher"))
    assert _is_equal(_state(session, "teacher"), teacher[1].state_dict())
    macs = {role: count_macs(net.backbone, (1, 8, 8)) for role, net in session.nets.items()}
    assert macs["student"] == macs["twin"] < macs["middle"] < macs["other"] == macs["teacher"]


def test_a_fresh_start_undoes_what_earlier_stages_did(train):
    twice = train(_recipe({"name": "before", "lr": 3.0}, {"name": "student", "start": "fresh"}))
    assert _is_equal(_state(twice), _state(train("plain")))
    assert not _is_equal(_state(twice), _state(train(_recipe({"name": "before"}, {"name": "student"}))))


def test_a_teacher_starts_from_new_weights_of_the_runs_seed(train, student, teacher):
    stage = {"name": "s", "beside": [{"learner": "teacher", "start": "fresh", **PLAIN}]}
    session = _open(_recipe(stage), student, teacher)
    build_stage(_recipe(stage).stages[0], session)
    torch.manual_seed(derive_seed(0, "role", "teacher"))
    assert _is_equal(_state(session, "teacher"), build(teacher[0]).state_dict())


def test_a_network_from_elsewhere_cannot_start_anew(student, teacher, dataset):
    elsewhere = (NetSpec("python", 0, 0, 8, 1, 4, (0.3,), (0.2,), {"model": "mine.py:net"}), teacher[1])
    for recipe in (
        _recipe({"name": "t", "learner": "teacher", "start": "fresh"}),
        _recipe({"name": "s"}, roles={"twin": {"like": "teacher"}}),
    ):
        with pytest.raises(ConfigError, match="not one of edgekd's families"):
            check_recipe(recipe, student=student, teacher=elsewhere, dataset=dataset, batch_size=32)


def test_a_recording_holds_the_states_at_equal_shares_of_a_stage(train):
    """With a constant rate, training for fewer epochs passes through the same states."""
    recorded = train(_recipe({"name": "student", "record": 2}), epochs=4, schedule="constant")
    checkpoints = recorded.trajectories["student"]
    assert [checkpoint.progress for checkpoint in checkpoints] == [0.5, 1.0]
    for checkpoint, epochs in zip(checkpoints, (2, 4), strict=True):
        shorter = train(_recipe({"name": "student"}), epochs=epochs, schedule="constant")
        assert _is_equal(dict(checkpoint.state), shorter.net("student").state_dict())


@pytest.mark.parametrize("record, epochs, expected", [(1, 3, [1.0]), (3, 2, [0.5, 1.0]), (2, 5, [0.6, 1.0])])
def test_a_recording_is_as_even_as_whole_epochs_allow(train, record, epochs, expected):
    session = train(_recipe({"name": "student", "record": record}), epochs=epochs)
    assert [checkpoint.progress for checkpoint in session.trajectories["student"]] == expected


def test_the_last_recorded_state_is_the_one_that_was_kept(train):
    choppy = {"epochs": 5, "lr": 1.5, "schedule": "constant", "select": "best", "seed": 3}
    session = train(_recipe({"name": "student", "record": 5}), **choppy)
    checkpoints = session.trajectories["student"]
    assert _is_equal(dict(checkpoints[-1].state), session.net("student").state_dict())
    last = train(_recipe({"name": "student"}), **{**choppy, "select": "last"})
    assert not _is_equal(dict(checkpoints[-1].state), last.net("student").state_dict())


def test_a_stage_that_runs_again_records_again(train):
    session = train(_recipe({"name": "student", "record": 2, "repeat": 2}))
    assert [checkpoint.progress for checkpoint in session.trajectories["student"]] == [0.5, 1.0]


def test_a_repeated_stage_is_that_stage_written_out(train):
    repeated = train(_recipe({"name": "student", "repeat": 3}), epochs=1)
    written = train(_recipe({"name": "student"}, {"name": "student-2"}, {"name": "student-3"}), epochs=1)
    assert _is_equal(_state(repeated), _state(written))
    assert not _is_equal(_state(repeated), _state(train(_recipe({"name": "student"}), epochs=1)))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_checkpoint_for_a_step_is_numpys_searchsorted(count):
    times = np.arange(1, count + 1) / count
    checkpoints = [Checkpoint(float(time), {}) for time in times]
    for total in (7, 24, 40):
        for index in range(total):
            progress = Step(index, total, 0).progress
            assert checkpoint_at(checkpoints, progress) is checkpoints[np.searchsorted(times, progress)]
    assert checkpoint_at(checkpoints[:1], 1.0) is checkpoints[0]


def test_a_trajectory_answers_as_the_network_did_then(student, teacher, batch):
    session = _open(_recipe({"name": "s"}, roles={"other": {"like": "teacher"}}), student, teacher)
    net = session.net("teacher")
    expected = []
    for progress in (0.25, 0.5, 1.0):
        with torch.no_grad():
            net.backbone.net.linear.bias.normal_()
            net.backbone.net.bn1.running_mean.normal_()
            expected.append(net.eval()(batch.inputs).logits)
        session.record("teacher", progress)
    source = SOURCES["trajectory"](Asker("student", session, ("student",)))
    for index, which in ((0, 0), (1, 0), (2, 1), (3, 2), (1, 0)):
        logits = source(batch, Step(index, 4, 0), {})["teacher"].logits
        assert torch.equal(logits, expected[which]) and not logits.requires_grad


def test_a_trajectory_wants_one_network_that_was_recorded(student, teacher):
    session = _open(_recipe({"name": "s", "source": {"type": "frozen"}}), student, teacher)
    asker = Asker("student", session, ("student",))
    with pytest.raises(ConfigError, match="no checkpoints of teacher.*record"):
        SOURCES["trajectory"](asker)
    with pytest.raises(ConfigError, match="of one network, got teacher, student"):
        SOURCES["trajectory"](asker, roles=("teacher", "student"))


def test_an_ensemble_is_the_mean_of_probabilities_and_not_of_logits(student, teacher, batch):
    roles = {"a": {"like": "teacher"}, "b": {"between": 0.5}}
    session = _open(_recipe({"name": "s"}, roles=roles), student, teacher)
    source = SOURCES["ensemble"](Asker("student", session, ("student",)), roles=("teacher", "a", "b"))
    (trace,) = source(batch, Step(0, 1, 0), {}).values()
    logits = []
    for role in ("teacher", "a", "b"):
        with torch.no_grad():
            logits.append(session.net(role)(batch.inputs).logits.double().numpy())
    exps = [np.exp(z - z.max(axis=1, keepdims=True)) for z in logits]
    mean = np.mean([e / e.sum(axis=1, keepdims=True) for e in exps], axis=0)
    np.testing.assert_allclose(trace.logits.double().exp().numpy(), mean, rtol=1e-4, atol=1e-7)
    of_logits = torch.tensor(np.mean(logits, axis=0)).softmax(dim=1).numpy()
    assert np.abs(of_logits - mean).max() > 0.01


LAYERS = ("conv1", "bn1", "layer1", "layer2", "layer3", "linear")


@pytest.mark.parametrize(
    "stage, moved",
    [
        ({"until": "first"}, {"conv1", "bn1", "layer1"}),
        ({"until": "middle"}, {"conv1", "bn1", "layer1", "layer2"}),
        ({"until": "last"}, {"conv1", "bn1", "layer1", "layer2", "layer3"}),
        ({"until": "first", "train": ["backbone", "head"]}, {"conv1", "bn1", "layer1", "linear"}),
        ({"train": ["head"]}, {"linear"}),
        ({}, set(LAYERS)),
    ],
)
def test_no_parameter_or_buffer_moves_outside_what_a_stage_trains(train, student, teacher, stage, moved):
    recipe = _recipe({"name": "student", **stage})
    before, after = _state(_open(recipe, student, teacher)), _state(train(recipe, weight_decay=0.1))
    for layer in LAYERS:
        changed = [not torch.equal(before[name], after[name]) for name in before if name.startswith(f"net.{layer}.")]
        assert changed
        assert all(changed) if layer in moved else not any(changed), layer


def test_until_and_attachments_ask_for_a_feature_map_where_there_is_none(dataset, student):
    vectors = torch.nn.Sequential()
    vectors.add_module("flatten", torch.nn.Flatten())
    vectors.add_module("hidden", torch.nn.Linear(64, 5))
    vectors.add_module("out", torch.nn.Linear(5, 4))
    teacher = (NetSpec("python", 0, 0, 8, 1, 4, (0.3,), (0.2,), {"model": "mine.py:net"}), vectors)
    for stage, attach in (
        ({"until": "middle"}, {}),
        ({}, {"teacher": {"g": {"type": "guided-module", "at": "first"}}}),
    ):
        recipe = _recipe({"name": "t", "learner": "teacher", **stage}, attach=attach)
        with pytest.raises(ConfigError, match="no feature map"):
            check_recipe(recipe, student=student, teacher=teacher, dataset=dataset, batch_size=32)


TEACHER = {"name": "t", "learner": "teacher", "record": 2}
FITTING = {"name": "s", "source": {"type": "trajectory"}, "terms": [{"type": "vid"}]}


def _unrecorded(stage):
    return {key: value for key, value in stage.items() if key != "record"}


@pytest.mark.parametrize(
    "stages, refusal",
    [
        ((TEACHER, FITTING), None),
        (({**TEACHER, "start": "fresh"}, FITTING), None),
        ((_unrecorded(TEACHER), FITTING), "no checkpoints of teacher"),
        ((TEACHER, {**FITTING, "terms": [{"type": "vid", "pairs": [["net.no", "net.layer1"]]}]}), "unknown module"),
        ((TEACHER, {"name": "s", "terms": [{"type": "cross-entropy", "part": "aux:none"}]}), "attachment output"),
        ((TEACHER, {"name": "s", "terms": [{"type": "kd", "weight": 0.0}]}), "weight 0"),
    ],
)
def test_a_rehearsal_goes_to_the_last_stage_and_changes_nothing(dataset, student, teacher, stages, refusal):
    spec, net = teacher[0], copy.deepcopy(teacher[1]).train().requires_grad_(True)
    before, chance = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with nullcontext() if refusal is None else pytest.raises(ConfigError, match=refusal):
        check_recipe(_recipe(*stages), student=student, teacher=(spec, net), dataset=dataset, batch_size=32)
    assert _is_equal(before, net.state_dict())
    assert net.training and all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert torch.equal(chance, torch.get_rng_state())


def test_a_rehearsal_refuses_a_task_that_a_term_is_not_defined_for(dataset, student, teacher):
    narrow = dataclasses.replace(student, num_classes=2)
    with pytest.raises(ConfigError, match="stage 'student' does not fit this task"):
        check_recipe(load_recipe("plain"), student=narrow, teacher=teacher, dataset=dataset, batch_size=32)


@pytest.mark.parametrize("name", ["takd", "dgkd-stochastic", "dual-student", "ekd", "sftn", "online-checkpoints"])
def test_recipes_of_several_networks_pass_their_rehearsal(dataset, student, teacher, name):
    check_recipe(load_recipe(name), student=student, teacher=teacher, dataset=dataset, batch_size=32)
