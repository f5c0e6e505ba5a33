"""Terms that tell a sample's own student-teacher pair from the pairs of other samples."""

from __future__ import annotations

import math

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.trace import Trace, TraceSpec, shape_of


@TERMS.register("info-nce")
class InBatchContrast(nn.Module):
    """Each student feature has to find its teacher feature among those of the batch, through one linear head a side.

    Negatives are the other samples of the batch, those of the same class among them. Both heads are learned; the
    teacher's feature below its head is not.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        embedding_width: Outputs of each head.
        temperature: Divides the cosines.

    Reference:
        arXiv 1807.03748 (the loss), arXiv 1910.10699 (its use between teacher and student).
    """

    def __init__(
        self, student: TraceSpec, teacher: TraceSpec, *, embedding_width: int = 128, temperature: float = 0.07
    ) -> None:
        super().__init__()
        if embedding_width < 1 or not temperature > 0:
            raise ConfigError(
                f"info-nce: embedding_width {embedding_width} and temperature {temperature} must be positive"
            )
        self.temperature = temperature
        self.needs = Needs((student.penultimate,), (teacher.penultimate,), least_rows=2)
        self.student_head = nn.Linear(math.prod(shape_of(student, student.penultimate)), embedding_width)
        self.teacher_head = nn.Linear(math.prod(shape_of(teacher, teacher.penultimate)), embedding_width)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        (on,), (to,) = self.needs.student, self.needs.teacher
        mine = self.student_head(student.feats[on].flatten(1))
        theirs = self.teacher_head(teacher.feats[to].detach().flatten(1))
        return K.info_nce(mine, theirs, temperature=self.temperature)
