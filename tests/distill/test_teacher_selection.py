"""RL-KD: what it is at constant selections, gradient and rewards by hand, and a teacher who is wrong in one half."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import ArrayImages, Batch, Split
from edgekd.distill import RunOptions, TrainSettings, check_recipe, load_recipe, run_recipe
from edgekd.distill.policies import POLICIES, Feedback, TeacherSelection
from edgekd.distill.policies import teacher_selection as module
from edgekd.distill.policies.recollection import Recollection
from edgekd.distill.policies.reinforce import EpisodeGradient, log_odds
from edgekd.distill.policies.rewards import student_reward
from edgekd.distill.policies.teacher_selection import averaging, teacher_states
from edgekd.distill.recipe import Recipe
from edgekd.distill.sources import SOURCES, FrozenNets
from edgekd.distill.terms import Step
from edgekd.distill.trace import Trace
from edgekd.distill.tree_file import load_tree, save_tree
from edgekd.distill.weighers import Moment

SURE = 1e3


def expit(x):
    return 1 / (1 + np.exp(-x))


def _rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _trace(logits, feature=None):
    aux = {} if feature is None else {"state.feature": feature}
    return Trace(logits, {}, aux, torch.zeros(len(logits), 1, 2, 2))


def _moment(step, seed=0, unlabelled=(), ids=None):
    labelled = torch.tensor([row not in unlabelled for row in range(4)])
    labels = torch.tensor([0, 1, 2, 0])
    batch = Batch(torch.zeros(4, 1, 2, 2), labels, torch.arange(4) if ids is None else ids, labelled)
    teachers = (_trace(3 * _rand(4, 3, seed=10), 7 * _rand(4, 2, seed=11)), _trace(3 * _rand(4, 3, seed=12)))
    return Moment(_rand(4, 2, seed=seed + 100), _trace(_rand(4, 3, seed=seed)), teachers, batch, step)


# --- what it is at constant selections


@pytest.fixture
def selecting(monkeypatch):
    """Make every policy select the same teachers."""

    def go(*selected):
        odds = torch.tensor([SURE if chosen else -SURE for chosen in selected])
        monkeypatch.setattr(module, "log_odds", lambda parameters, states: odds.expand(len(states), -1))

    return go


def _equal(one, other):
    one, other = one.student.state_dict(), other.student.state_dict()
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def _with_last_terms(*terms):
    document = load_recipe("rl-kd").model_dump(mode="json", exclude_defaults=True)
    document["stages"][-1] |= {"learns": [], "terms": [{"type": "cross-entropy", "weight": 0.5}, *terms]}
    return Recipe.model_validate(document)


KD = {"type": "kd", "temperature": 10.0}


def test_all_teachers_selected_is_uniform_averaging(run, selecting):
    selecting(1, 1, 1)
    assert _equal(run("rl-kd"), run(_with_last_terms({**KD, "weight": 0.5 / 3})))


@pytest.mark.parametrize("place, role", list(enumerate(["teacher", "second", "middle"])))
def test_one_teacher_selected_is_distillation_from_it(run, selecting, place, role):
    selecting(*(index == place for index in range(3)))
    assert _equal(run("rl-kd"), run(_with_last_terms({**KD, "weight": 0.5, "of": [role]})))


def test_no_teacher_selected_is_cross_entropy_alone(run, selecting):
    selecting(0, 0, 0)
    assert _equal(run("rl-kd"), run(_with_last_terms()))


def test_the_warm_start_averages_all_teachers(run):
    stage = load_recipe("rl-kd").stages[-2]
    weights = {term.type: term.weight for term in stage.terms}
    assert stage.source[0].options["roles"] == load_recipe("rl-kd").stages[-1].source[0].options["roles"]
    assert weights == {"cross-entropy": 0.5, "kd": pytest.approx(0.5 / 3)}


def test_selected_teachers_are_averaged_and_none_divides_by_zero():
    weights = averaging(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert weights.tolist() == [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


# --- gradient, rewards, baseline


def _log_probability(parameters, states, choices):
    total = np.zeros(len(states))
    for row in range(len(states)):
        for k in range(parameters.shape[0]):
            p = expit(parameters[k, :-1] @ states[row, k] + parameters[k, -1])
            total[row] += np.log(p if choices[row, k] else 1 - p)
    return total


def test_the_log_probability_gradient_equals_finite_differences():
    rng = np.random.default_rng(0)
    parameters, states = rng.normal(size=(3, 5)), rng.normal(size=(7, 3, 4))
    choices, rewards = rng.integers(0, 2, (7, 3)), rng.normal(size=7)
    numeric = np.zeros_like(parameters)
    for index in np.ndindex(*parameters.shape):
        nudge = np.zeros_like(parameters)
        nudge[index] = 1e-6
        ahead, back = (_log_probability(parameters + sign * nudge, states, choices) for sign in (1, -1))
        numeric[index] = ((0.3 * rewards - 2.0) * (ahead - back) / 2e-6).mean()
    as_tensor = [torch.tensor(value, dtype=torch.float32) for value in (parameters, states, choices, rewards)]
    surprise = as_tensor[2] - log_odds(as_tensor[0], as_tensor[1]).sigmoid()
    gradient = EpisodeGradient(3, 4)
    gradient.add(surprise[:4], as_tensor[1][:4], as_tensor[3][:4])
    gradient.add(surprise[4:], as_tensor[1][4:], as_tensor[3][4:])
    np.testing.assert_allclose(gradient.ascent(share=0.3, offset=-2.0), numeric, rtol=1e-4, atol=1e-6)
    assert gradient.mean_reward == pytest.approx(rewards.mean())


def test_rewards_are_the_losses_of_the_student_with_the_teachers_it_had():
    losses, each = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[10.0, 30.0], [10.0, 30.0], [10.0, 30.0]])
    selection = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert student_reward("r1", losses, each, selection).tolist() == [-1, -2, -3]
    assert student_reward("r2", losses, each, selection).tolist() == [-11, -22, -23]
    assert student_reward("r3", losses, each, selection).tolist() == [-11, -22, -23]


def test_a_state_is_instance_probabilities_and_cross_entropy_and_knows_nothing_of_the_student():
    states = teacher_states(_moment(Step(0, 1, 0)), "aux:state.feature")
    moment = _moment(Step(0, 1, 0), seed=5)
    assert torch.equal(states, teacher_states(moment, "aux:state.feature"))
    for row in range(4):
        for k, teacher in enumerate(moment.targets):
            vector = moment.targets[0].aux["state.feature"][row].double().numpy()
            odds = np.exp(teacher.logits[row].double().numpy())
            probabilities = odds / odds.sum()
            label = moment.batch.labels[row].item()
            expected = [*(vector / np.linalg.norm(vector)), *probabilities, -np.log(probabilities[label])]
            np.testing.assert_allclose(states[row, k], expected, rtol=1e-5)


@pytest.mark.parametrize("reward", ["r1", "r2", "r3"])
def test_an_epochs_choices_are_rewarded_by_the_next_and_move_the_policy_at_its_end(reward):
    policy = TeacherSelection(3, reward=reward, share=0.25, lr=0.7, memory=0.5)
    states = teacher_states(_moment(Step(0, 4, 0)), "aux:state.feature").double().numpy()
    extended = np.concatenate([states, np.ones((4, 2, 1))], axis=2)
    parameters, total, mass = np.zeros((2, extended.shape[2])), 0.0, 0.0
    before, accuracy = None, None
    for epoch, accuracy_after in enumerate([0.2, 0.9, 0.5, 0.6]):
        moment = _moment(Step(epoch, 4, epoch), seed=epoch)
        selection = (policy.weigh(0, moment, is_learning=True) > 0).double().numpy()
        policy.observe(Feedback(accuracy_after, 1.0))
        if before is not None:
            logits, labels = moment.own.logits.double().numpy(), moment.batch.labels.numpy()
            kd = moment.values.double().numpy()
            rewards = np.zeros(4)
            for row in range(4):
                ce = np.log(np.exp(logits[row]).sum()) - logits[row, labels[row]]
                asked = [k for k in range(2) if before[0][row, k]] or [0, 1]
                r2 = -ce - np.mean([kd[row, k] for k in asked])
                rewards[row] = {"r1": -ce, "r2": r2, "r3": 0.25 * r2 + 0.75 * accuracy}[reward]
            total, mass = 0.5 * total + 0.5 * rewards.mean(), 0.5 * mass + 0.5
            moved = np.zeros_like(parameters)
            for row in range(4):
                for k in range(2):
                    surprise = before[0][row, k] - before[1][row, k]
                    moved[k] += (rewards[row] - total / mass) * surprise * extended[row, k] / 4
            next_parameters = parameters + 0.7 * moved
        else:
            next_parameters = parameters
        before = selection, expit((extended * parameters).sum(axis=2))
        parameters, accuracy = next_parameters, accuracy_after
        np.testing.assert_allclose(policy.memory()["parameters"], parameters, rtol=1e-4, atol=1e-6)
    assert np.abs(parameters).max() > 0.01


def test_a_reward_that_is_the_same_for_all_moves_nothing():
    policy = TeacherSelection(0, reward="r1", lr=10.0)
    for epoch in range(4):
        moment = _moment(Step(epoch, 4, epoch))
        same = replace(moment, own=_trace(torch.zeros(4, 3)))
        policy.weigh(0, same, is_learning=True)
        policy.observe(Feedback(0.5, 1.0))
    assert policy.memory()["parameters"].abs().max() < 1e-5


def test_rows_without_a_label_are_not_counted():
    def learned(poison):
        policy = TeacherSelection(0, lr=5.0)
        for epoch in range(3):
            moment = _moment(Step(epoch, 3, epoch), seed=epoch, unlabelled=(1, 3))
            moment.batch.labels[[1, 3]] = poison
            moment.values[[1, 3]] = 100.0 * poison
            policy.weigh(0, moment, is_learning=True)
            policy.observe(Feedback(0.5, 1.0))
        return policy.memory()["parameters"]

    assert torch.equal(learned(-1), learned(2))
    assert learned(2).abs().max() > 0


def test_instances_are_known_by_their_ids_whatever_their_order():
    memory = Recollection(torch.empty(0, 2))
    memory.keep(torch.tensor([5, 2]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    is_known, rows = memory.recall(torch.tensor([2, 9, 5]))
    assert is_known.tolist() == [True, False, True]
    assert rows[is_known].tolist() == [[3, 4], [1, 2]]


def test_nothing_is_kept_of_instances_made_for_one_batch():
    memory = Recollection(torch.empty(0, 1))
    memory.keep(torch.tensor([-1, 0, -1]), torch.tensor([[7.0], [8.0], [9.0]]))
    is_known, rows = memory.recall(torch.tensor([-1, 0, 1]))
    assert is_known.tolist() == [False, True, False]
    assert rows[1].item() == 8.0
    memory.keep(torch.tensor([-1]), torch.tensor([[5.0]]))
    assert memory.recall(torch.tensor([-1]))[0].tolist() == [False]


def test_choices_of_an_earlier_stage_are_forgotten():
    policy = TeacherSelection(0, lr=5.0)
    for _ in range(2):
        policy.weigh(0, _moment(Step(0, 1, 0)), is_learning=True)
        policy.observe(Feedback(0.5, 1.0))
    assert policy.memory()["parameters"].abs().max() == 0


def _written(tmp_path, policy):
    save_tree(tmp_path / "memory.safetensors", policy.memory())
    return (tmp_path / "memory.safetensors").read_bytes()


def test_a_policy_that_does_not_learn_selects_what_is_likelier_than_not_and_draws_nothing(tmp_path):
    policy = TeacherSelection(0, value=0.5)
    policy.weigh(0, _moment(Step(0, 2, 0)), is_learning=True)
    policy._parameters[0, -1], policy._parameters[1, -1] = 0.01, -0.01
    before = _written(tmp_path, policy)
    weights = policy.weigh(0, _moment(Step(1, 2, 0)), is_learning=False)
    assert weights.tolist() == [[0.5, 0.0]] * 4
    assert before == _written(tmp_path, policy)


def test_the_first_to_ask_in_a_step_decides_for_all():
    policy, step = TeacherSelection(0), Step(0, 2, 0)
    assert policy.weigh(0, _moment(step), is_learning=True) is policy.weigh(0, _moment(step, seed=3), is_learning=True)


def test_it_goes_on_from_its_memory_as_if_never_stopped_and_spares_the_global_generator(tmp_path):
    before = torch.get_rng_state()
    policies = [TeacherSelection(2, reward="r3", lr=2.0)]
    for epoch in range(3):
        policies[0].weigh(0, _moment(Step(epoch, 9, epoch), seed=epoch), is_learning=True)
        policies[0].observe(Feedback(0.1 * epoch, 1.0))
    policies.append(TeacherSelection(2, reward="r3", lr=2.0))
    kept, memory = _written(tmp_path, policies[0]), policies[0].memory()
    policies[1].remember(load_tree(tmp_path / "memory.safetensors"))
    for epoch in range(3, 6):
        moment = _moment(Step(epoch, 9, epoch), seed=epoch)
        one, other = (policy.weigh(0, moment, is_learning=True) for policy in policies)
        assert torch.equal(one, other)
        for policy in policies:
            policy.observe(Feedback(0.7, 1.0))
    assert _written(tmp_path, policies[0]) == _written(tmp_path, policies[1]) != kept
    save_tree(tmp_path / "late.safetensors", memory)
    assert (tmp_path / "late.safetensors").read_bytes() == kept
    assert torch.equal(torch.get_rng_state(), before)


# --- a teacher who is wrong in one half of the input space


def _is_marked(images):
    return images[:, 0, 0, 0] > 0.5


def _marked(split, seed):
    rng = np.random.default_rng(seed)
    images = split.inputs.gather(np.arange(len(split))).copy()
    images[:, 0, :, 0] = np.where(rng.integers(0, 2, (len(images), 1)) == 1, 250, 0)
    return Split(ArrayImages(images), split.labels, split.task)


class _HalfWrong:
    """The teacher, and the same teacher with its classes permuted on the marked half of the pictures."""

    def __init__(self, asker, *, roles: tuple[str, ...] = ("teacher",)):
        net = asker.frozen(roles[0])
        self.nets = {"right": net, "half-wrong": net}
        self._frozen = FrozenNets({"right": net})

    def __call__(self, batch, step, live):
        right = self._frozen(batch, step, live)["right"]
        wrong = right.logits.roll(1, dims=1)
        logits = torch.where(_is_marked(batch.inputs)[:, None], wrong, right.logits)
        return {"right": right, "half-wrong": replace(right, logits=logits)}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_teacher_who_is_wrong_in_one_half_is_selected_less_there_and_not_elsewhere(
    dataset, student, teacher, monkeypatch, seed
):
    frequencies = {}

    class Watched(TeacherSelection):
        def weigh(self, action, moment, *, is_learning):
            weights = super().weigh(action, moment, is_learning=is_learning)
            is_marked = _is_marked(moment.batch.inputs)
            for half in (True, False):
                chosen = (weights[is_marked == half, 1] > 0).tolist()
                frequencies.setdefault((moment.step.epoch, half), []).append(np.mean(chosen))
            return weights

    monkeypatch.setitem(POLICIES._items, "teacher-selection", Watched)
    monkeypatch.setitem(SOURCES._items, "half-wrong", _HalfWrong)
    marked = {name: _marked(getattr(dataset, name), index) for index, name in enumerate(("train", "val", "test"))}
    settings = TrainSettings(epochs=10, batch_size=16, augment="none", device="cpu")
    plain = load_recipe("plain")
    data = replace(dataset, **marked)
    able = run_recipe(
        plain, student=teacher[0], teacher=None, dataset=data, settings=settings, options=RunOptions(seed=7)
    ).student
    kd = {"type": "kd", "temperature": 2.0}
    shared = {"source": {"type": "half-wrong"}}
    recipe = Recipe(
        name="planted",
        title="planted",
        attach={"teacher": {"state": {"type": "penultimate"}}},
        policies={"selector": {"type": "teacher-selection"}},
        stages=[
            {
                **shared,
                "name": "warm-start",
                "epochs": 0.5,
                "keep": "last",
                "terms": [{"type": "cross-entropy", "weight": 0.5}, {**kd, "weight": 0.25}],
            },
            {
                **shared,
                "name": "student",
                "learns": ["selector"],
                "terms": [{"type": "cross-entropy", "weight": 0.5}, {**kd, "weight": {"policy": "selector"}}],
            },
        ],
    )
    run_recipe(
        recipe,
        student=student,
        teacher=(teacher[0], able),
        dataset=data,
        settings=settings,
        options=RunOptions(seed=seed),
    )
    start, end = (
        {half: np.mean([frequencies[epoch, half] for epoch in epochs]) for half in (True, False)}
        for epochs in ([0], [7, 8, 9])
    )
    assert start[True] > 0.4
    assert end[True] < 0.1
    assert end[False] > 0.4


# --- refusals


@pytest.mark.parametrize(
    "options, fragment",
    [
        ({"share": 1.5}, "share 1.5 must be in"),
        ({"memory": 1.0}, "memory 1.0 in"),
        ({"lr": 0.0}, "lr 0.0 positive"),
        ({"instance": "aux:nothing"}, "unknown attachment output 'nothing'"),
        ({"instance": "logits", "reward": "r4"}, "reward"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(dataset, student, teacher, options, fragment):
    recipe = load_recipe("rl-kd")
    policy = recipe.policies["selector"]
    changed = {"selector": type(policy)(type=policy.type, **{**policy.options, **options})}
    with pytest.raises(ConfigError, match=fragment):
        check_recipe(
            recipe.model_copy(update={"policies": changed}),
            student=student,
            teacher=teacher,
            dataset=dataset,
            batch_size=8,
        )


def test_it_refuses_an_instance_that_is_no_vector():
    moment = _moment(Step(0, 1, 0))
    feature = torch.rand(4, 2, 2)
    moment = replace(moment, targets=(replace(moment.targets[0], aux={"state.feature": feature}), moment.targets[1]))
    with pytest.raises(ConfigError, match=r"reads a vector \[B, D\]"):
        TeacherSelection(0).weigh(0, moment, is_learning=True)


@pytest.mark.parametrize("kind", ["segmentation", "regression"])
def test_it_refuses_tasks_without_one_class_an_input(kind):
    moment = _moment(Step(0, 1, 0))
    with pytest.raises(ConfigError, match=f"reads the class of an input, this task is {kind}"):
        TeacherSelection(0).weigh(0, replace(moment, own=replace(moment.own, kind=kind)), is_learning=True)
