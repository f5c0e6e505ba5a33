"""Terms between vectors of a network: an exit's feature and the one that feeds the classifier."""

from __future__ import annotations

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.trace import Trace, TraceSpec, require_same_width, select


@TERMS.register("feature-mse")
class FeatureMSE(nn.Module):
    """Mean squared difference of two vectors of one width.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        part: Vector of the student (`"aux:exit1.feature"`).
        target: Vector of the teacher; `"penultimate"` is the feature that feeds its classifier.

    Reference:
        arXiv 1905.08094; the mean is taken where the paper writes a norm.
    """

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, part: str, target: str = "penultimate") -> None:
        super().__init__()
        self.part = part
        self.target = teacher.penultimate if target == "penultimate" else target
        require_same_width(student, teacher, self.part, self.target)
        self.needs = Needs(teacher=() if self.target.startswith("aux:") else (self.target,))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return K.hint_mse(select(student, self.part), select(teacher, self.target))
