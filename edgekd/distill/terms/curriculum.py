"""Terms that grow harder as training goes on."""

from __future__ import annotations

import math

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.fitting import require_logits
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("curriculum-temperature")
class CurriculumTemperature(nn.Module):
    """Distillation at one learned temperature, which comes to work against the student.

    The temperature is `least + span * sigmoid(theta)`, `theta` starting at 1 and taking no weight decay. Its gradient
    is multiplied by a number that goes from 0 to `gradient_scale` along a cosine over the first part of the stage.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        gradient_scale: Final factor of theta's gradient; -1 is the paper's adversary, 0 keeps the temperature.
        over: Share of the stage's steps in (0, 1] after which it is reached; the paper has 10 of 240 epochs.
        least: Lower bound of the temperature.
        span: Upper bound less the lower bound.

    Reference:
        arXiv 2211.16231.
    """

    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        gradient_scale: float = -1.0,
        over: float = 10 / 240,
        least: float = 1.0,
        span: float = 20.0,
    ) -> None:
        super().__init__()
        require_logits("curriculum-temperature", student, teacher, temperature=least)
        if not span >= 0:
            raise ConfigError(f"curriculum-temperature: span must not be negative, got {span}")
        if not 0 < over <= 1:
            raise ConfigError(f"curriculum-temperature: over must be in (0, 1], got {over}")
        self.gradient_scale, self.over, self.least, self.span = gradient_scale, over, least, span
        self.theta = nn.Parameter(torch.ones(()))
        self.needs = Needs(undecayed=("theta",))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        progress = min(1.0, step.index / max(1.0, self.over * step.total))
        return K.curriculum_kl(
            student.logits,
            teacher.logits,
            self.theta,
            gradient_scale=self.gradient_scale * (1 - math.cos(math.pi * progress)) / 2,
            least=self.least,
            span=self.span,
        )
