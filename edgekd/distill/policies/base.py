"""What a policy is: weights that are learned from reward instead of from gradients of the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from edgekd.core.registry import Registry
from edgekd.distill.weighers import Moment


@dataclass(frozen=True)
class Feedback:
    """How the learner does at the end of a phase (an epoch), on rows that its gradient never sees.

    Attributes:
        score: On the held-out split, in the metric of its task; 1.0 is perfect.
        nll: Mean negative log-likelihood there, in nats (see `Evaluation`).
    """

    score: float
    nll: float


class Policy(Protocol):
    """Decides weights at each step and learns from what comes of them; it lives through all stages of a recipe.

    One that also has `memory` and `remember` (see `edgekd.distill.resume.Remembering`) lets a run be interrupted.
    """

    actions: int

    def weigh(self, action: int, moment: Moment, *, is_learning: bool) -> Tensor:
        """Return the weight of one of its actions, broadcasting to `[B, S]`.

        Args:
            action: Which, from 0 to `actions - 1`; a stage may ask for several at each step.
            moment: The term it is for.
            is_learning: Whether the decision is to be explored and remembered.
        """
        ...

    def observe(self, feedback: Feedback) -> None:
        """Learn from the phase that ends; called only in stages in which the policy learns."""
        ...


POLICIES: Registry[Callable[..., Policy]] = Registry("policy")
"""`builder(seed, **options)`."""


@dataclass(frozen=True)
class PolicyWeight:
    """A weigher that asks a policy.

    Attributes:
        policy: The policy.
        action: Which of its numbers.
        is_learning: Whether the policy learns in this stage.
    """

    policy: Policy
    action: int
    is_learning: bool

    def __call__(self, moment: Moment) -> float | Tensor:
        """Return the policy's weight."""
        return self.policy.weigh(self.action, moment, is_learning=self.is_learning)
