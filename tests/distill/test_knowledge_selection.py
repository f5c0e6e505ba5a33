"""Knowledge selection: what it is at constant preferences, its rewards by hand, and a knowledge that is noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import TrainSettings, check_recipe, load_recipe
from edgekd.distill.policies import POLICIES, Feedback, KnowledgeSelection
from edgekd.distill.policies.agent import Agent
from edgekd.distill.policies.knowledge_selection import Exploration, chance_nll, hardened
from edgekd.distill.recipe import Recipe
from edgekd.distill.specs import TermSpec
from edgekd.distill.terms import TERMS, Needs, Step
from edgekd.distill.trace import Trace
from edgekd.distill.tree_file import load_tree, save_tree
from edgekd.distill.weighers import Moment

QUIET = Exploration(noise=0.0, bonus=0.0)


def _trace(feature):
    return Trace(torch.zeros(len(feature), 4), {}, {"state.feature": feature}, torch.zeros(len(feature), 1, 2, 2))


def _moment(step, size=1.0, own=None, theirs=None):
    own = torch.rand(4, 3, generator=torch.Generator().manual_seed(step.index)) if own is None else own
    theirs = torch.ones(4, 2) if theirs is None else theirs
    batch = Batch(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long), torch.arange(4), torch.ones(4).bool())
    teacher = _trace(theirs)
    return Moment(torch.full((4, 1), size), _trace(own), (teacher,), batch, step, {"teacher": teacher})


def _ask(policy, step, sizes=(1.0, 1.0), *, is_learning=True, **parts):
    return [
        policy.weigh(action, _moment(step, size, **parts), is_learning=is_learning) for action, size in enumerate(sizes)
    ]


@pytest.fixture
def preferring(monkeypatch):
    """Make every actor prefer one loss and nothing else."""

    def go(action):
        def prefer(agent, parts):
            return torch.eye(agent._actions)[action]

        monkeypatch.setattr(Agent, "prefer", prefer)

    return go


@pytest.fixture
def watched(monkeypatch):
    """The policies of the runs of a test."""
    policies = []

    class Watched(KnowledgeSelection):
        def observe(self, feedback):
            if self not in policies:
                policies.append(self)
            super().observe(feedback)

    monkeypatch.setitem(POLICIES._items, "knowledge-selection", Watched)
    return policies


def _weights(outcome):
    return outcome.student.state_dict()


def _assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def _last_stage(order=(0, 1, 2, 3)):
    recipe = load_recipe("knowledge-selection")
    terms = [recipe.stages[-1].terms[index] for index in order]
    renumbered = [
        term.model_copy(update={"weight": term.weight.model_copy(update={"action": place})})
        for place, term in enumerate(terms)
    ]
    stage = recipe.stages[-1].model_copy(update={"terms": tuple(renumbered), "start": "as-is"})
    return recipe.model_copy(update={"stages": (stage,)})


@pytest.mark.parametrize("kind", range(4))
def test_an_actor_that_prefers_one_loss_alone_trains_by_that_loss_exactly(run, preferring, kind):
    preferring(0)
    order = (kind, *(other for other in range(4) if other != kind))
    recipe = _last_stage(order)
    alone = recipe.stages[0].terms[0].model_copy(update={"weight": 1.0})
    # A loss on maps gives the classifier no gradient, and without one there is no weight decay either.
    nothing = TermSpec(type="cross-entropy", weight={"start": 0.0, "end": 0.0, "over": 1.0})
    stage = recipe.stages[0].model_copy(update={"terms": (alone, nothing) if kind > 1 else (alone,)})
    _assert_equal(_weights(run(recipe)), _weights(run(recipe.model_copy(update={"stages": (stage,), "policies": {}}))))


def test_the_whole_recipe_with_an_actor_for_cross_entropy_alone_is_plain_training(run, preferring):
    preferring(0)
    _assert_equal(_weights(run("knowledge-selection")), _weights(run("plain", with_teacher=False)))


def test_a_loss_counts_its_preference_at_the_size_of_the_first(preferring):
    preferring(1)
    policy = KnowledgeSelection(0, actions=2, exploration=QUIET)
    first, second = [], []
    for index, (one, other) in enumerate([(2.0, 300.0), (1.0, 100.0), (4.0, 500.0)]):
        weight = _ask(policy, Step(index, 9, 0), (one, other))[1].item()
        first.append(one)
        second.append(other)
        memory = 0.99 ** np.arange(index, -1, -1)
        assert weight == pytest.approx(np.average(first, weights=memory) / np.average(second, weights=memory), rel=1e-5)


def test_running_means_start_anew_with_a_stage(preferring):
    preferring(1)
    policy = KnowledgeSelection(0, actions=2, exploration=QUIET)
    _ask(policy, Step(0, 2, 0), (1.0, 1000.0))
    assert _ask(policy, Step(0, 2, 0), (1.0, 10.0))[1].item() == pytest.approx(0.1)


def test_the_first_to_ask_in_a_step_decides_for_all_and_steps_of_a_phase_share_their_noise():
    policy = KnowledgeSelection(0, actions=2, exploration=Exploration(noise=0.2))
    own = torch.ones(4, 3)
    step = Step(0, 9, 0)
    one = _ask(policy, step, own=own)
    assert [w.item() for w in one] == [w.item() for w in _ask(policy, step, own=5 * own)]
    assert one[0] == _ask(policy, Step(1, 9, 0), own=own)[0]
    policy.observe(Feedback(0.5, 1.0))
    assert one[0] != _ask(policy, Step(2, 9, 1), own=own)[0]
    settled = [_ask(policy, Step(index, 9, 1), own=own, is_learning=False)[0] for index in (3, 4)]
    assert settled[0] == settled[1]


def test_rewards_are_the_decrease_of_held_out_cross_entropy_less_the_likeness_to_the_action_before(monkeypatch):
    prefer = iter(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
    monkeypatch.setattr(Agent, "prefer", lambda agent, parts: next(prefer))
    policy = KnowledgeSelection(0, actions=2, exploration=Exploration(noise=0.0, bonus=0.5))
    for episode in ([1.0, 0.7, 0.9], [1.1, 50.0, 0.2]):
        for index, nll in enumerate(episode):
            _ask(policy, Step(index, 3, index))
            policy.observe(Feedback(0.0, nll))
    rewards = [transition.reward.item() for transition in policy._agent.transitions]
    expected = [math.log(4) - 1.0, 0.3 - 0.5 * 0.6, -0.2 - 0.5 * 0.8, math.log(4) - 1.1]
    expected += [1.1 - math.log(4), math.log(4) - 0.2]
    assert rewards == pytest.approx(expected, abs=1e-6)


def test_chance_is_a_uniform_guess_or_a_standard_normal():
    assert chance_nll(_trace(torch.rand(2, 3))) == pytest.approx(math.log(4))
    values = np.random.default_rng(0).standard_normal((100_000, 2))
    two_targets = replace(_trace(torch.rand(2, 3)), kind="regression")
    assert chance_nll(two_targets) == pytest.approx((values**2 / 2).sum(axis=1).mean(), rel=0.01)


def test_hard_choices_are_rewarded_less_the_more_often_they_were_made(monkeypatch):
    prefer = iter(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.7, 0.3]]))
    monkeypatch.setattr(Agent, "prefer", lambda agent, parts: next(prefer))
    policy = KnowledgeSelection(0, actions=2, threshold=0.5, exploration=Exploration(noise=0.0, bonus=1.0))
    for index in range(4):
        weights = _ask(policy, Step(index, 4, index))
        assert {w.item() for w in weights} == {0.0, 1.0}
        policy.observe(Feedback(0.0, math.log(4)))
    rewards = [transition.reward.item() for transition in policy._agent.transitions]
    assert rewards == pytest.approx([1, 1 / math.sqrt(2), 1, 1 / math.sqrt(3)], abs=1e-6)


def test_hard_choices_take_what_reaches_the_threshold_and_always_the_largest():
    assert hardened(torch.tensor([0.5, 0.49, 0.9]), 0.5).tolist() == [1, 0, 1]
    assert hardened(torch.tensor([0.1, 0.3, 0.2]), 0.5).tolist() == [0, 1, 0]


def test_the_soft_action_is_the_actors_own_and_states_are_means_over_the_batch():
    policy = KnowledgeSelection(0, actions=2, exploration=QUIET)
    own, theirs = torch.rand(4, 3), torch.rand(4, 2)
    weights = _ask(policy, Step(0, 2, 0), own=own, theirs=theirs)
    expected = policy._agent.prefer([own.mean(dim=0), theirs.mean(dim=0)])
    assert [w.item() for w in weights] == pytest.approx(expected.tolist())
    assert all(0 < w < 1 for w in weights)


def test_the_state_is_read_without_a_graph():
    policy = KnowledgeSelection(0, actions=2)
    own = torch.rand(4, 3, requires_grad=True)
    weights = _ask(policy, Step(0, 2, 0), own=own)
    assert not any(weight.requires_grad for weight in weights)
    policy.observe(Feedback(0.1, 1.0))
    assert own.grad is None
    assert not any(value.requires_grad for value in _tensors(policy.memory()))


def test_a_transition_has_the_states_at_the_ends_of_its_phase_and_the_mean_action():
    policy = KnowledgeSelection(0, actions=2, exploration=Exploration(noise=0.3))
    parts = [torch.rand(4, 3) for _ in range(3)]
    actions = [_ask(policy, Step(index, 3, 0), own=own) for index, own in enumerate(parts)]
    policy.observe(Feedback(0.1, 1.0))
    (one,) = policy._agent.transitions
    torch.testing.assert_close(one.state[:3], parts[0].mean(dim=0))
    torch.testing.assert_close(one.next_state[:3], parts[2].mean(dim=0))
    assert one.action.tolist() == pytest.approx(np.mean(actions, axis=0).tolist())


def _tensors(node):
    if isinstance(node, torch.Tensor):
        return [node]
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    return [tensor for part in inner for tensor in _tensors(part)]


def _written(tmp_path, memory):
    save_tree(tmp_path / "memory.safetensors", memory)
    return (tmp_path / "memory.safetensors").read_bytes()


def test_it_goes_on_from_its_memory_as_if_never_stopped_and_spares_the_global_generator(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    policies = [KnowledgeSelection(4, actions=2)]
    for index in range(3):
        _ask(policies[0], Step(index, 9, index), (1.0, 3.0 + index))
        policies[0].observe(Feedback(0.0, 1.0 - 0.1 * index))
    policies.append(KnowledgeSelection(4, actions=2))
    kept, memory = _written(tmp_path, policies[0].memory()), policies[0].memory()
    policies[1].remember(load_tree(tmp_path / "memory.safetensors"))
    for index in range(3, 6):
        one, other = (_ask(policy, Step(index, 9, index), (2.0, 5.0)) for policy in policies)
        assert [w.item() for w in one] == [w.item() for w in other]
        for policy in policies:
            policy.observe(Feedback(0.0, 0.5))
    assert _written(tmp_path, policies[0].memory()) == _written(tmp_path, policies[1].memory()) != kept
    assert _written(tmp_path, memory) == kept
    assert torch.equal(torch.get_rng_state(), before)


def test_there_are_as_many_evaluations_as_phases_and_the_last_stage_learns_nothing(run, monkeypatch, watched, tmp_path):
    import edgekd.distill.loop as loop

    evaluations, evaluate = [], loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *args: evaluations.append(1) or evaluate(*args))
    episodes = load_recipe("knowledge-selection")
    outcome = run(episodes.model_copy(update={"stages": episodes.stages[:1]}))
    transitions = len(watched[0]._agent.transitions)
    assert len(evaluations) == len(outcome.history) == transitions == episodes.stages[0].repeat * 2
    run(episodes)
    learned, frozen = (_written(tmp_path, policy.memory()["agent"]) for policy in watched)
    assert learned == frozen


class _ShuffledTargets(nn.Module):
    """Distillation from the teacher's answers with its classes shuffled."""

    def __init__(self, student, teacher):
        super().__init__()
        self.needs = Needs()

    def forward(self, student, teacher, batch, step):
        return K.kd_kl(student.logits, teacher.logits[:, [1, 2, 3, 0]], temperature=1.0)


@pytest.mark.parametrize("seed", [0])
def test_a_knowledge_that_is_noise_comes_to_count_less_than_at_the_start_and_than_at_random(
    run, watched, monkeypatch, seed
):
    monkeypatch.setitem(TERMS._items, "shuffled-targets", _ShuffledTargets)
    terms = [
        {"type": "kd", "temperature": 1.0, "weight": {"policy": "selector", "action": 0}},
        {"type": "shuffled-targets", "weight": {"policy": "selector", "action": 1}},
    ]
    stage = {"name": "episode", "start": "fresh", "repeat": 8, "learns": ["selector"], "terms": terms}
    recipe = Recipe(
        name="planted",
        title="planted",
        attach={role: {"state": {"type": "penultimate"}} for role in ("student", "teacher")},
        policies={"selector": {"type": "knowledge-selection", "actions": 2}},
        stages=[stage],
    )
    run(recipe, seed=seed, settings=TrainSettings(epochs=5, batch_size=8, augment="none", device="cpu"))
    (policy,) = watched
    agent, states = policy._agent, torch.stack([transition.state for transition in policy._agent.transitions])
    end = agent._nets[0].act(states).mean(dim=0)
    start = Agent(2, agent._how, seed=agent._seed)._built(agent._nets[0].widths)[0].act(states).mean(dim=0)
    at_random = 0.5
    assert end[1] < min(start[1].item(), at_random) - 0.15
    assert end[0] > start[0] + 0.1


@pytest.mark.parametrize(
    "options, fragment",
    [
        ({"actions": 0}, "actions must be positive"),
        ({"threshold": 1.5}, "threshold must be in"),
        ({"state": {"target": "nobody"}}, "unknown target that knowledge-selection reads 'nobody'"),
        ({"state": {"own": "aux:nothing"}}, "unknown attachment output 'nothing'"),
        ({"actions": 3}, "has 3 action"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(dataset, student, teacher, options, fragment):
    recipe = load_recipe("knowledge-selection")
    policy = recipe.policies["selector"].model_copy(update=options)
    policy = type(policy)(type=policy.type, **{**policy.options, **options})
    with pytest.raises(ConfigError, match=fragment):
        check_recipe(
            recipe.model_copy(update={"policies": {"selector": policy}}),
            student=student,
            teacher=teacher,
            dataset=dataset,
            batch_size=8,
        )


def test_the_first_loss_has_to_be_listed_first(dataset, student, teacher):
    recipe = load_recipe("knowledge-selection")
    stage = recipe.stages[-1]
    recipe = recipe.model_copy(update={"stages": (stage.model_copy(update={"terms": stage.terms[::-1]}),)})
    with pytest.raises(ConfigError, match="list the term of action 0 first"):
        check_recipe(recipe, student=student, teacher=teacher, dataset=dataset, batch_size=8)


def test_it_refuses_a_state_that_is_no_vector():
    policy = KnowledgeSelection(0, actions=2)
    with pytest.raises(ConfigError, match=r"reads vectors \[B, D\]"):
        _ask(policy, Step(0, 2, 0), own=torch.rand(4, 3, 2))
