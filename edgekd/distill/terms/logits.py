"""Terms on logits: cross-entropy and Hinton's distillation loss."""

from __future__ import annotations

import torch.nn.functional as F
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.terms.base import TERMS, Needs, Step
from edgekd.distill.trace import Trace, TraceSpec, require_same_width, select, shape_of


@TERMS.register("cross-entropy")
class CrossEntropy(nn.Module):
    """Cross-entropy at temperature 1 with the mean over labelled rows only.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        part: Which logits of the student: `"logits"` or `"aux:NAME.logits"`.
    """

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, part: str = "logits") -> None:
        super().__init__()
        if shape_of(student, part) != (student.num_classes,):
            raise ConfigError(
                f"cross-entropy on {part}: it has shape {shape_of(student, part)}, not ({student.num_classes},)"
            )
        self.part = part
        self.needs = Needs(is_supervised=True)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; rows without a label are 0 and the others scaled so that the mean is over labelled rows."""
        logits = select(student, self.part)
        labelled = batch.is_labelled.to(logits.dtype)
        values = F.cross_entropy(logits, batch.labels.where(batch.is_labelled, 0), reduction="none")
        return values * labelled * (len(labelled) / labelled.sum().clamp(min=1))


@TERMS.register("kd")
class KnowledgeDistillation(nn.Module):
    """Hinton's distillation loss between two vectors read as logits; also MAG's code terms.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperature: Softens both sides; the loss is multiplied by its square.
        part: Vector of the student (`"logits"`, `"aux:abstract.code"`).
        target: Vector of the teacher.

    Reference:
        arXiv 1503.02531.
    """

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        temperature: float = 4.0,
        part: str = "logits",
        target: str = "logits",
    ) -> None:
        super().__init__()
        require_same_width(student, teacher, part, target)
        if not temperature > 0:
            raise ConfigError(f"kd: temperature must be positive, got {temperature}")
        self.temperature, self.part, self.target = temperature, part, target
        self.needs = Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return K.kd_kl(select(student, self.part), select(teacher, self.target), temperature=self.temperature)
