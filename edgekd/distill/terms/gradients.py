"""The term of GKD and GKD-CLS: where the teacher's prediction changes with its input, the student's should."""

from __future__ import annotations

from typing import Literal

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.tokens import StatePairs, state_pairs
from edgekd.distill.trace import Trace, TraceSpec, shape_of


@TERMS.register("gradient-match")
class GradientMatch(nn.Module):
    """Squared distance between the directions of both networks' input gradients of their own top class's probability.

    The student's gradient stays in its graph, so that training differentiates it once more.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        per: What has a direction of its own. `"position"` is the paper's: each token, a vector along the last axis of
            `[B, L, D]`; of pictures `[B, C, H, W]` each pixel, a vector of C channels, of which for a grey one nothing
            but the sign is left. `"sample"` is our adaptation to pictures: the whole gradient is one vector. `"auto"`
            is `"position"` for tokens and `"sample"` for pictures.
        layers: Paired layers with states `[B, L, D]` whose gradients count too, each as much as the input's: at
            `[CLS]`, the first token, alone. `"none"` is GKD, `"inner"` (every pair by relative depth but the last)
            GKD-CLS.

    Reference:
        arXiv 2211.01071.
    """

    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        per: Literal["auto", "sample", "position"] = "auto",
        layers: Literal["none"] | StatePairs = "none",
    ) -> None:
        super().__init__()
        self.per = per
        self.layers = () if layers == "none" else state_pairs(student, teacher, layers)
        for on, to in self.layers:
            mine, theirs = shape_of(student, on), shape_of(teacher, to)
            if mine[1] != theirs[1]:
                raise ConfigError(
                    f"gradient-match: states of {on!r} have width {mine[1]}, those of {to!r} {theirs[1]}; directions "
                    "are compared as they are, so take a student of the teacher's width or layers: none"
                )
        self.needs = Needs(
            input_gradient=True,
            student_gradients=tuple(on for on, _ in self.layers),
            teacher_gradients=tuple(to for _, to in self.layers),
        )

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = [self._of_inputs(student, teacher)]
        for on, to in self.layers:
            cls = slice(0, 1)
            mine, theirs = student.feat_gradients[on][:, cls], teacher.feat_gradients[to][:, cls]
            values.append(K.gradient_match(mine, theirs))
        return torch.stack(values).sum(dim=0)

    def _of_inputs(self, student: Trace, teacher: Trace) -> Tensor:
        mine, theirs = _gradient_of(student), _gradient_of(teacher)
        if mine.shape != theirs.shape:
            raise ConfigError(
                f"gradient-match compares gradients input by input, but the student's inputs have shape "
                f"{tuple(mine.shape[1:])} and the teacher's {tuple(theirs.shape[1:])}; take a teacher for inputs of "
                "the student's shape"
            )
        return K.gradient_match(self._vectors(mine), self._vectors(theirs))

    def _vectors(self, gradient: Tensor) -> Tensor:
        """Return `[B, N, D]`."""
        is_text = gradient.dim() == 3
        if self.per == "sample" or (self.per == "auto" and not is_text):
            return gradient.flatten(1).unsqueeze(1)
        return gradient if is_text else gradient.flatten(2).transpose(1, 2)


def _gradient_of(trace: Trace) -> Tensor:
    if trace.input_gradient is None:
        raise ConfigError("gradient-match: the trace holds no input gradient")
    return trace.input_gradient
