"""An actor that prefers and a critic that judges, learned by deterministic policy gradient from few transitions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import StrictModel

TDTarget = Literal["standard", "discounted-reward"]


class Learning(StrictModel):
    """How actor and critic learn."""

    width: int = Field(32, ge=1, description="Of every hidden layer.")
    critic_lr: float = Field(1e-3, gt=0, description="Of Adam, whose moments start anew at each phase end.")
    actor_lr: float = Field(3e-4, gt=0, description="Likewise.")
    updates: int = Field(20, ge=1, description="Steps at each phase end.")
    rows: int = Field(32, ge=1, description="Transitions of one step, drawn with replacement from all so far.")
    discount: float = Field(0.9, ge=0, le=1)
    target: TDTarget = Field("standard", description="standard: r + discount Q'; discounted-reward: discount r + Q'.")
    follow: float = Field(0.05, gt=0, le=1, description="Share by which the slow networks follow at each step.")
    rest: float = Field(0.01, ge=0, description="Pull of preferences towards one half: weight of their squared logits.")


@dataclass(frozen=True)
class Transition:
    """What one phase was like.

    Attributes:
        state: `[D]` at its start.
        action: `[A]`, its mean over the phase.
        reward: `[]`.
        next_state: `[D]` at its end.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor


class ActorCritic(nn.Module):
    """Two encoders of two layers, an actor and a critic of three.

    The encoders learn with the critic; the actor reads what they give.

    Args:
        widths: Widths of the student's and of the teacher's part of a state.
        actions: How many preferences.
        width: Width of the hidden layers and of the codes.
    """

    def __init__(self, widths: tuple[int, int], actions: int, width: int) -> None:
        super().__init__()
        self.widths = widths
        self.encoders = nn.ModuleList(_layers(part, width, width) for part in widths)
        self.actor = _layers(2 * width, width, width, actions)
        self.critic = _layers(2 * width + actions, width, width, 1)

    def act(self, states: Tensor) -> Tensor:
        """Return preferences `[N, A]` in 0..1 for states `[N, D]`."""
        return self.inclination(states).sigmoid()

    def inclination(self, states: Tensor) -> Tensor:
        """Return the logits `[N, A]` of the preferences."""
        logits: Tensor = self.actor(self._encoded(states))
        return logits

    def value(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return `[N]`, the return expected of actions `[N, A]` in states `[N, D]`."""
        values: Tensor = self.critic(torch.cat([self._encoded(states), actions], dim=1))
        return values.squeeze(1)

    def _encoded(self, states: Tensor) -> Tensor:
        parts = torch.split(states, list(self.widths), dim=1)
        return torch.cat([encode(part) for encode, part in zip(self.encoders, parts, strict=True)], dim=1)


def seeded(widths: tuple[int, int], actions: int, width: int, seed: int) -> ActorCritic:
    """Build the networks with weights that only the seed decides; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ActorCritic(widths, actions, width)


def td_target(rewards: Tensor, next_values: Tensor, *, discount: float, form: TDTarget) -> Tensor:
    """Return what the critic is to say, `[N]`.

    `standard` is `r + discount Q'(s', a')`. `discounted-reward` is `discount r + Q'(s', a')`, as a note on the paper
    writes it: another objective, and one whose values have no bound. Which one the authors used is not known.
    """
    if form == "standard":
        return rewards + discount * next_values
    return discount * rewards + next_values


def learn(nets: ActorCritic, slow: ActorCritic, transitions: Sequence[Transition], how: Learning, *, seed: int) -> None:
    """Improve critic and actor on transitions, the slow networks following.

    The critic descends the mean squared difference to `td_target`, `Q'` and `a'` being those of the slow networks. The
    actor ascends `Q(s, mu(s))` less `rest` times its mean squared logits: without that pull, what a critic that knows
    nothing yet makes of preferences saturates them.

    Args:
        nets: The networks.
        slow: Their slow copies.
        transitions: All so far.
        how: How to learn.
        seed: Decides which transitions each step draws.
    """
    critic = torch.optim.Adam([*nets.encoders.parameters(), *nets.critic.parameters()], lr=how.critic_lr)
    actor = torch.optim.Adam(nets.actor.parameters(), lr=how.actor_lr)
    states, actions, rewards, next_states = _stacked(transitions)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(how.updates):
        rows = torch.randint(len(transitions), (how.rows,), generator=generator)
        with torch.no_grad():
            after = slow.value(next_states[rows], slow.act(next_states[rows]))
        target = td_target(rewards[rows], after, discount=how.discount, form=how.target)
        _descend(critic, (nets.value(states[rows], actions[rows]) - target).square().mean())
        _descend(actor, _regret(nets, states[rows], how.rest))
        _follow(slow, nets, how.follow)


def _regret(nets: ActorCritic, states: Tensor, rest: float) -> Tensor:
    logits = nets.inclination(states)
    return rest * logits.square().mean() - nets.value(states, logits.sigmoid()).mean()


def slow_copy(nets: ActorCritic) -> ActorCritic:
    """Return a copy that is not trained."""
    return copy.deepcopy(nets).requires_grad_(False)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


def _follow(slow: ActorCritic, nets: ActorCritic, share: float) -> None:
    with torch.no_grad():
        for one, other in zip(slow.parameters(), nets.parameters(), strict=True):
            one.lerp_(other, share)


def _stacked(transitions: Sequence[Transition]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.stack([one.state for one in transitions]),
        torch.stack([one.action for one in transitions]),
        torch.stack([one.reward for one in transitions]),
        torch.stack([one.next_state for one in transitions]),
    )


def _layers(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
