"""Which teachers an instance is taught by: a learned coin for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.distill.policies.base import POLICIES, Feedback
from edgekd.distill.policies.recollection import Recollection
from edgekd.distill.policies.reinforce import EpisodeGradient, log_odds
from edgekd.distill.policies.rewards import StudentReward, student_reward
from edgekd.distill.step import Step
from edgekd.distill.terms.labelled import safe_labels
from edgekd.distill.trace import select
from edgekd.distill.weighers import Moment, RunningMean


@POLICIES.register("teacher-selection")
class TeacherSelection:
    """For each instance and teacher an independent choice whether it teaches, its log-odds linear in a state.

    The state is a vector of the instance, of unit length, that knows nothing of the student; the teacher's
    probabilities; the teacher's cross-entropy. Weights are `value a_ik / max(1, sum_k a_ik)`: the selected teachers are
    averaged, and an instance without any is left to the other terms. Where the policy does not learn, a teacher is
    selected if that is likelier than not.

    An episode is an epoch. A choice is rewarded when its instance comes up again, by the student that was taught so;
    `theta` moves at the end of that epoch, along the mean over instances of `(r - baseline) grad log pi`, the baseline
    being the moving mean of rewards. A stage of one epoch therefore teaches a policy nothing.

    Args:
        seed: Decides the choices.
        value: What the selected teachers' mean counts.
        reward: `"r1"` is `-CE_s`, `"r2"` is `-CE_s - KD_s`, `"r3"` is `share r2 + (1 - share) score`, that on
            held-out rows at the end of the epoch of the choice.
        share: Of r2 in r3.
        lr: Step size.
        memory: Share of the baseline that the next episode keeps, in [0, 1).
        instance: Part of the first teacher's trace that describes the instance, `[B, D]`.

    Raises:
        ConfigError: Options out of range.

    Reference:
        Yuan et al. 2021, arXiv 2012.06048. A and b for each teacher as in a third party's code; the exact rewards could
        not be seen. See `student_reward` for instances without a teacher.
    """

    actions = 1
    requires = ("labels",)
    leaves_out_unlabelled = True

    def __init__(
        self,
        seed: int,
        *,
        value: float = 0.5,
        reward: StudentReward = "r2",
        share: float = 0.5,
        lr: float = 0.1,
        memory: float = 0.9,
        instance: str = "aux:state.feature",
    ) -> None:
        if not 0 <= share <= 1 or not 0 <= memory < 1 or not lr > 0:
            raise ConfigError(
                f"teacher-selection: share {share} must be in [0, 1], memory {memory} in [0, 1), lr {lr} positive"
            )
        self._seed, self._value, self._instance = seed, value, instance
        self._reward, self._share, self._lr = reward, share if reward == "r3" else 1.0, lr
        self._parameters: Tensor | None = None
        self._gradient: EpisodeGradient | None = None
        self._past: Recollection | None = None
        self._baseline = RunningMean(memory)
        self._score, self._draws = 0.0, 0
        self._step: Step | None = None
        self._weights = torch.empty(0)

    def weigh(self, action: int, moment: Moment, *, is_learning: bool) -> Tensor:
        """Return `[B, S]`, the weight of each teacher for each instance; the first to ask in a step decides for all."""
        if moment.step is not self._step:
            self._step = moment.step
            if moment.step.index == 0:
                self._past, self._gradient = None, None
            self._weights = self._value * averaging(self._selection(moment, is_learning=is_learning))
        return self._weights.to(moment.values.device)

    def observe(self, feedback: Feedback) -> None:
        """End an episode: move the policy along what the choices of the one before have come to."""
        gradient, self._gradient = self._gradient, None
        if gradient is not None and self._parameters is not None:
            offset = (1 - self._share) * self._score
            self._baseline.take(torch.tensor(self._share * gradient.mean_reward + offset))
            ascent = gradient.ascent(share=self._share, offset=offset - self._baseline.mean.item())
            self._parameters = self._parameters + self._lr * ascent
        self._score = feedback.score

    def memory(self) -> dict[str, Any]:
        """Return what it learned and chose and how often chance was asked, for a run that is interrupted."""
        return {
            "parameters": self._parameters,
            "baseline": self._baseline.memory(),
            "past": None if self._past is None else self._past.table.clone(),
            "score": self._score,
            "draws": self._draws,
            "gradient": None if self._gradient is None else self._gradient.memory(),
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Take up what `memory` returned."""
        self._parameters, self._score, self._draws = memory["parameters"], memory["score"], memory["draws"]
        self._baseline.remember(memory["baseline"])
        self._past = None if memory["past"] is None else Recollection(memory["past"].clone())
        self._gradient = None if memory["gradient"] is None else EpisodeGradient.remembered(memory["gradient"])
        self._step = None

    def _selection(self, moment: Moment, *, is_learning: bool) -> Tensor:
        states = teacher_states(moment, self._instance)
        if self._parameters is None:
            self._parameters = torch.zeros(states.shape[1], states.shape[2] + 1)
        probabilities = log_odds(self._parameters, states).sigmoid()
        if not is_learning:
            return (probabilities > 0.5).float()
        self._draws += 1
        seed = derive_seed(self._seed, "choices", self._draws)
        selection = torch.bernoulli(probabilities, generator=torch.Generator().manual_seed(seed))
        self._exchange(moment, states, torch.cat([selection, selection - probabilities], dim=1))
        return selection

    def _exchange(self, moment: Moment, states: Tensor, choices: Tensor) -> None:
        """Reward the choices that were made when these instances were last seen, and keep those of now instead."""
        ids = moment.batch.ids.cpu()
        if self._past is None:
            self._past = Recollection(torch.empty(0, choices.shape[1]))
        is_known, past = self._past.recall(ids)
        self._past.keep(ids, choices)
        is_counted = is_known & moment.batch.is_labelled.cpu()
        if not is_counted.any():
            return
        selection, surprise = past[is_counted].chunk(2, dim=1)
        losses = F.cross_entropy(moment.own.logits.detach().float(), safe_labels(moment.batch), reduction="none")
        seen, distillation = losses.cpu()[is_counted], moment.values.float().cpu()[is_counted]
        if self._gradient is None:
            self._gradient = EpisodeGradient(states.shape[1], states.shape[2])
        self._gradient.add(surprise, states[is_counted], student_reward(self._reward, seen, distillation, selection))


def teacher_states(moment: Moment, instance: str) -> Tensor:
    """Return the state of each row and teacher: the instance, the teacher's probabilities, its cross-entropy.

    Args:
        moment: A term's moment, its targets being the teachers.
        instance: Part of the first teacher's trace that describes the instance, `[B, D]`; brought to unit length.

    Returns:
        `[B, S, D + K + 1]` on the CPU; the cross-entropy of a row without a label is that to class 0.

    Raises:
        ConfigError: The task has not one class an input, or the instance is described by no vector.
    """
    if moment.own.kind != "classification":
        raise ConfigError(f"teacher-selection reads the class of an input, this task is {moment.own.kind}")
    described = select(moment.targets[0], instance)
    if described.ndim != 2:
        raise ConfigError(f"teacher-selection reads a vector [B, D]; {instance} is {tuple(described.shape)}")
    vector, labels = F.normalize(described.float(), dim=1), safe_labels(moment.batch)
    each = []
    for target in moment.targets:
        logs = target.logits.float().log_softmax(dim=1)
        cross_entropy = F.nll_loss(logs, labels, reduction="none")
        each.append(torch.cat([vector, logs.exp(), cross_entropy[:, None]], dim=1))
    return torch.stack(each, dim=1).detach().cpu()


def averaging(selection: Tensor) -> Tensor:
    """Return weights `a_k / max(1, sum_k a_k)` for selections `[B, S]` of 0 and 1."""
    return selection / selection.sum(dim=1, keepdim=True).clamp(min=1)
