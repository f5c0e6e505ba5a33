"""Which kind of knowledge counts now: an actor-critic over the weights of several losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from edgekd.core.config import StrictModel
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.core.seeds import derive_seed
from edgekd.distill.policies.actor_critic import Learning, Transition
from edgekd.distill.policies.agent import Agent
from edgekd.distill.policies.base import POLICIES, Feedback
from edgekd.distill.policies.rewards import novelty, repetition
from edgekd.distill.step import Step
from edgekd.distill.trace import Trace, select
from edgekd.distill.weighers import Moment, RunningMean, size_of

_MEMORY = 0.99


class StateParts(StrictModel):
    """What the actor sees: the mean over the batch of a vector of the student and of one of a target."""

    own: str = Field("aux:state.feature", description="Part of the student's trace, [B, D].")
    theirs: str = Field("aux:state.feature", description="Part of the target's trace, [B, D].")
    target: str = Field("teacher", description="Name of the target.")


class Exploration(StrictModel):
    """How a policy that learns comes to try what it would not prefer."""

    noise: float = Field(1.0, ge=0, description="Standard deviation of what a phase adds to each preference.")
    bonus: float = Field(0.05, ge=0, description="Weight of the reward for not doing the same again.")


_STATE, _LEARNING, _EXPLORATION = StateParts(), Learning(), Exploration()


@dataclass
class _Phase:
    chance: float
    first: Tensor
    last: Tensor
    total: Tensor
    steps: int = 0


@POLICIES.register("knowledge-selection")
class KnowledgeSelection:
    """A preference in [0, 1] for each of several losses, decided at every step and learned at phase ends.

    Every loss is brought to the size of the first by the running means of both, then multiplied by its preference; so
    preferences compare, and a preference for the first alone is that loss as it is. A phase is an epoch. Its reward is
    how much the held-out cross-entropy fell in it, from chance in the first phase; a network worse than chance counts
    as chance, or one outlier would decide what the critic says. A stage in which the policy learns is an episode.

    Args:
        seed: Decides initial weights and exploration.
        actions: How many losses.
        threshold: Preferences from here on count 1, others 0, the largest always 1; None takes them as they are.
        state: What the actor sees.
        learning: How actor and critic learn.
        exploration: How it explores.

    Raises:
        ConfigError: No actions, or a threshold that is no preference.

    Reference:
        Wang et al. 2022, arXiv 2302.00444. A reconstruction from a note on the paper: a phase makes one transition, of
        the states at its ends and the mean of its actions; the steps of a phase share one noise, as they share one
        reward; the last phase of an episode looks ahead like any other.
    """

    def __init__(
        self,
        seed: int,
        *,
        actions: int = 4,
        threshold: float | None = None,
        state: StateParts = _STATE,
        learning: Learning = _LEARNING,
        exploration: Exploration = _EXPLORATION,
    ) -> None:
        if actions < 1:
            raise ConfigError(f"knowledge-selection: actions must be positive, got {actions}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"knowledge-selection: threshold must be in [0, 1], got {threshold}")
        self.actions = actions
        self._seed, self._threshold, self._parts = seed, threshold, state
        self._exploration = exploration
        self._agent = Agent(actions, learning, seed=derive_seed(seed, "agent"))
        self._sizes = [RunningMean(_MEMORY) for _ in range(actions)]
        self._begun, self._before = 0, math.nan
        self._phase: _Phase | None = None
        self._step: Step | None = None
        self._preferences = torch.empty(0)

    def weigh(self, action: int, moment: Moment, *, is_learning: bool) -> Tensor:
        """Return `[]`, the weight of one loss; the first to ask in a step decides for all.

        Raises:
            ConfigError: The first loss has not asked yet, or the state is not to be had.
        """
        if moment.step is not self._step:
            self._begin(moment)
            self._decide(moment, is_learning=is_learning)
        self._sizes[action].take(size_of(moment.values))
        preference = self._preferences[action].to(moment.values.device)
        if action == 0:
            return preference
        if not self._sizes[0].is_known:
            raise ConfigError("knowledge-selection measures losses by the first: list the term of action 0 first")
        return preference * self._sizes[action].scale(self._sizes[0].mean)

    def observe(self, feedback: Feedback) -> None:
        """End a phase: reward the mean of its actions, and learn from all phases so far."""
        phase, self._phase = self._phase, None
        if phase is None:
            return
        action, nll = phase.total / phase.steps, min(feedback.nll, phase.chance)
        reward = self._before - nll + self._exploration.bonus * self._exploration_reward(action)
        self._before = nll
        self._agent.learn(Transition(phase.first, action, torch.tensor(reward), phase.last))

    def memory(self) -> dict[str, Any]:
        """Return what it learned, running means and where the episode stands, for a run that is interrupted."""
        return {
            "agent": self._agent.memory(),
            "sizes": [size.memory() for size in self._sizes],
            "begun": self._begun,
            "before": self._before,
            "phase": None if self._phase is None else asdict(self._phase),
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self._agent.remember(memory["agent"])
        for size, kept in zip(self._sizes, memory["sizes"], strict=True):
            size.remember(kept)
        self._begun, self._before = memory["begun"], memory["before"]
        self._phase = None if memory["phase"] is None else _Phase(**memory["phase"])
        self._step = None

    def _begin(self, moment: Moment) -> None:
        self._step = moment.step
        if moment.step.index == 0:
            self._sizes = [RunningMean(_MEMORY) for _ in range(self.actions)]
            self._begun, self._before = len(self._agent.transitions), chance_nll(moment.own)
            self._phase = None

    def _decide(self, moment: Moment, *, is_learning: bool) -> None:
        parts = self._state(moment)
        self._preferences = self._preferred(parts, is_learning=is_learning)
        if is_learning:
            state = torch.cat(parts)
            self._phase = self._phase or _Phase(chance_nll(moment.own), state, state, torch.zeros(self.actions))
            self._phase.last = state
            self._phase.total = self._phase.total + self._preferences
            self._phase.steps += 1

    def _state(self, moment: Moment) -> list[Tensor]:
        parts = self._parts
        if parts.target not in moment.named:
            raise unknown_name("target that knowledge-selection reads", parts.target, moment.named)
        vectors = [select(moment.own, parts.own), select(moment.named[parts.target], parts.theirs)]
        if any(vector.ndim != 2 for vector in vectors):
            shapes = [tuple(vector.shape) for vector in vectors]
            raise ConfigError(f"knowledge-selection reads vectors [B, D], got {shapes} of student and target")
        return [vector.detach().float().mean(dim=0).cpu() for vector in vectors]

    def _preferred(self, parts: list[Tensor], *, is_learning: bool) -> Tensor:
        preferences = self._agent.prefer(parts)
        if is_learning:
            seed = derive_seed(self._seed, "noise", len(self._agent.transitions))
            noise = torch.randn(self.actions, generator=torch.Generator().manual_seed(seed))
            preferences = (preferences + self._exploration.noise * noise).clamp(0, 1)
        return preferences if self._threshold is None else hardened(preferences, self._threshold)

    def _exploration_reward(self, action: Tensor) -> float:
        earlier = [transition.action for transition in self._agent.transitions]
        if self._threshold is not None:
            return novelty(1 + sum(torch.equal(one.round(), action.round()) for one in earlier))
        return -repetition(action, earlier[-1]).item() if len(earlier) > self._begun else 0.0


def hardened(preferences: Tensor, threshold: float) -> Tensor:
    """Return 1 for preferences `[A]` that reach the threshold and for the largest, 0 for the others."""
    reaches = preferences >= threshold
    reaches[preferences.argmax()] = True
    return reaches.float()


def chance_nll(trace: Trace) -> float:
    """Return the cross-entropy of a network that knows nothing, in nats.

    `ln K` for classes; for `D` real values of unit size `D / 2`, that of a standard normal distribution without the
    constant that `Evaluation` leaves out.
    """
    return trace.logits.shape[1] / 4 if trace.kind == "regression" else math.log(trace.logits.shape[1])
