"""Actor and critic alone: targets by hand, one step of learning against its formula, what a state restores."""

import numpy as np
import pytest
import torch

from edgekd.distill.policies.actor_critic import Learning, Transition, learn, seeded, slow_copy, td_target
from edgekd.distill.policies.agent import Agent
from edgekd.distill.tree_file import save_tree


def _transition(index):
    generator = torch.Generator().manual_seed(index)
    state, after = torch.rand(5, generator=generator), torch.rand(5, generator=generator)
    return Transition(state, torch.rand(3, generator=generator), torch.tensor(0.1 * index), after)


def test_td_targets_are_those_of_a_hand_computation():
    rewards, after = torch.tensor([1.0, -2.0]), torch.tensor([10.0, 3.0])
    standard = td_target(rewards, after, discount=0.5, form="standard")
    assert standard.tolist() == [1.0 + 0.5 * 10.0, -2.0 + 0.5 * 3.0]
    noted = td_target(rewards, after, discount=0.5, form="discounted-reward")
    assert noted.tolist() == [0.5 * 1.0 + 10.0, 0.5 * -2.0 + 3.0]


def _mlp(layers, x):
    weights = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for layer in weights[:-1]:
        x = torch.relu(x @ layer.weight.T + layer.bias)
    return x @ weights[-1].weight.T + weights[-1].bias


def _q(nets, state, action):
    code = torch.cat([_mlp(nets.encoders[0], state[:2]), _mlp(nets.encoders[1], state[2:])])
    return _mlp(nets.critic, torch.cat([code, action]))[0]


def _mu(nets, state):
    with torch.no_grad():
        code = torch.cat([_mlp(nets.encoders[0], state[:2]), _mlp(nets.encoders[1], state[2:])])
    return _mlp(nets.actor, code)


def _adams_first_step(parameter, gradient, lr):
    return parameter - lr * gradient / (gradient.abs() + 1e-8)


@pytest.mark.parametrize("form", ["standard", "discounted-reward"])
def test_one_step_descends_the_td_error_and_ascends_q_with_the_slow_networks_in_the_target(form):
    how = Learning(width=4, updates=1, rows=1, discount=0.7, rest=0.02, follow=0.3, target=form)
    nets = seeded((2, 3), 3, 4, 1).double()
    slow = slow_copy(seeded((2, 3), 3, 4, 2).double())
    (one,) = [Transition(*(value.double() for value in vars(_transition(4)).values()))]
    kept_nets, kept_slow = slow_copy(nets), slow_copy(slow)

    after = _q(slow, one.next_state, _mu(slow, one.next_state).sigmoid()).detach()
    target = one.reward + 0.7 * after if form == "standard" else 0.7 * one.reward + after
    critic = [*nets.encoders.parameters(), *nets.critic.parameters()]
    gradients = torch.autograd.grad((_q(nets, one.state, one.action) - target) ** 2, critic)
    expected_critic = [_adams_first_step(p, g, how.critic_lr) for p, g in zip(critic, gradients, strict=True)]

    moved = slow_copy(nets)
    for parameter, value in zip(
        [*moved.encoders.parameters(), *moved.critic.parameters()], expected_critic, strict=True
    ):
        parameter.data.copy_(value)
    actor = list(moved.actor.requires_grad_(True).parameters())
    logits = _mu(moved, one.state)
    regret = 0.02 * (logits**2).mean() - _q(moved, one.state, logits.sigmoid())
    expected_actor = [
        _adams_first_step(p, g, how.actor_lr) for p, g in zip(actor, torch.autograd.grad(regret, actor), strict=True)
    ]

    learn(nets, slow, [one], how, seed=0)
    for got, expected in zip(critic, expected_critic, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    for got, expected in zip(nets.actor.parameters(), expected_actor, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    for got, before, other in zip(slow.parameters(), kept_slow.parameters(), nets.parameters(), strict=True):
        torch.testing.assert_close(got, 0.7 * before + 0.3 * other)
    assert any((a != b).any() for a, b in zip(nets.parameters(), kept_nets.parameters(), strict=True))


def test_the_actor_climbs_to_the_action_that_pays_and_away_from_the_one_that_costs():
    agent = Agent(2, Learning(updates=20), seed=0)
    state = [torch.tensor([1.0, 0.0]), torch.tensor([0.5])]
    start = agent.prefer(state)
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = torch.tensor(rng.random(2), dtype=torch.float32)
        reward = torch.tensor(0.3 * action[0].item() - 0.3 * action[1].item())
        agent.learn(Transition(torch.cat(state), action, reward, torch.cat(state)))
    end = agent.prefer(state)
    assert end[0] > 0.8 > start[0]
    assert end[1] < 0.2 < start[1]


def test_each_phase_draws_transitions_of_its_own(monkeypatch):
    seeds = []
    monkeypatch.setattr("edgekd.distill.policies.agent.learn", lambda *_, seed: seeds.append(seed))
    agent = Agent(3, Learning(), seed=0)
    agent.prefer([torch.rand(2), torch.rand(3)])
    for index in range(3):
        agent.learn(_transition(index))
    assert len(set(seeds)) == 3


def test_networks_depend_on_the_seed_alone_and_leave_the_global_generator_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = seeded((2, 3), 3, 4, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    for a, b in zip(one.parameters(), seeded((2, 3), 3, 4, 7).parameters(), strict=True):
        assert torch.equal(a, b)
    assert (one.actor[0].weight != seeded((2, 3), 3, 4, 8).actor[0].weight).any()


def test_encoders_and_critic_have_the_depths_of_the_paper():
    nets = seeded((2, 3), 3, 4, 0)
    depths = [
        sum(isinstance(layer, torch.nn.Linear) for layer in part) for part in (*nets.encoders, nets.actor, nets.critic)
    ]
    assert depths == [2, 2, 3, 3]


def _written(tmp_path, part):
    save_tree(tmp_path / "memory.safetensors", part.memory())
    return (tmp_path / "memory.safetensors").read_bytes()


def test_an_agent_goes_on_from_its_memory_as_if_never_stopped(tmp_path):
    state = [torch.rand(2), torch.rand(3)]
    agent = Agent(3, Learning(), seed=3)
    agent.prefer(state)
    for index in range(3):
        agent.learn(_transition(index))
    other = Agent(3, Learning(), seed=3)
    other.remember(agent.memory())
    for each in (agent, other):
        each.learn(_transition(9))
    assert torch.equal(agent.prefer(state), other.prefer(state))
    assert _written(tmp_path, agent) == _written(tmp_path, other)


def test_a_memory_is_not_changed_by_what_is_learned_later(tmp_path):
    agent = Agent(3, Learning(), seed=3)
    agent.prefer([torch.rand(2), torch.rand(3)])
    agent.learn(_transition(0))
    before, memory = _written(tmp_path, agent), agent.memory()
    agent.learn(_transition(1))
    save_tree(tmp_path / "late.safetensors", memory)
    assert (tmp_path / "late.safetensors").read_bytes() == before != _written(tmp_path, agent)
