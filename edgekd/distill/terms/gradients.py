"""The term of GKD: where the student's prediction changes with its input, it should change as the teacher's does."""

from __future__ import annotations

from typing import Literal

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.trace import Trace, TraceSpec


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

    Reference:
        arXiv 2211.01071.
    """

    def __init__(
        self, student: TraceSpec, teacher: TraceSpec, *, per: Literal["auto", "sample", "position"] = "auto"
    ) -> None:
        super().__init__()
        self.per, self.needs = per, Needs(input_gradient=True)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
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
