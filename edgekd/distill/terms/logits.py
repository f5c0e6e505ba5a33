"""Terms on logits as they are or standardised: cross-entropy and Hinton's distillation loss."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import IGNORED, Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.fitting import require_logits
from edgekd.distill.terms.labelled import over_labelled, safe_labels, safe_maps
from edgekd.distill.trace import Trace, TraceSpec, require_same_width, select, shape_of


@TERMS.register("cross-entropy")
class CrossEntropy(nn.Module):
    """Cross-entropy at temperature 1 with the mean over labelled rows only; of each pixel where labels are maps.

    Pixels of the ignored label count nothing, and the mean is over all other pixels of the batch. Inputs that are mixed
    of two count towards both labels, by their shares.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        part: Which logits of the student: `"logits"` or `"aux:NAME.logits"`.
    """

    requires = ("labels",)
    leaves_out_unlabelled = True
    row_claim = "apart"
    takes_blends = True

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, part: str = "logits") -> None:
        super().__init__()
        if shape_of(student, part) != student.logits_shape:
            raise ConfigError(
                f"cross-entropy on {part}: it has shape {shape_of(student, part)}, not {student.logits_shape}"
            )
        self.part = part
        self.needs = Needs(is_supervised=True)
        if student.positions:
            self.row_claim = "together"  # The mean is over the pixels of the batch that are not ignored.

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; rows without a label are 0 and the others scaled so that the mean is over labelled rows."""
        logits = select(student, self.part)
        if logits.dim() == 4:
            return K.pixel_cross_entropy(logits, safe_maps(batch), ignored=IGNORED)
        losses = F.cross_entropy(logits, safe_labels(batch), reduction="none")
        if batch.blend is not None:
            others = F.cross_entropy(logits, batch.blend.labels, reduction="none")
            losses = batch.blend.shares * losses + (1 - batch.blend.shares) * others
        return over_labelled(losses, batch)


@TERMS.register("kd")
class KnowledgeDistillation(nn.Module):
    """Hinton's distillation loss between two vectors read as logits; also MAG's code terms.

    Between maps of logits it is the mean over pixels, ignored ones included: the teacher knows them.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperature: Softens both sides; the loss is multiplied by its square.
        part: Vector of the student (`"logits"`, `"aux:abstract.code"`).
        target: Vector of the teacher.
        rows: `"all"`, or only the `"labelled"` ones, the mean being over these.

    Reference:
        arXiv 1503.02531.
    """

    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        temperature: float = 4.0,
        part: str = "logits",
        target: str = "logits",
        rows: Literal["all", "labelled"] = "all",
    ) -> None:
        super().__init__()
        require_same_width(student, teacher, part, target)
        if not temperature > 0:
            raise ConfigError(f"kd: temperature must be positive, got {temperature}")
        self.temperature, self.part, self.target, self.rows = temperature, part, target, rows
        self.needs = Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = K.kd_kl(select(student, self.part), select(teacher, self.target), temperature=self.temperature)
        return values if self.rows == "all" else over_labelled(values, batch)


@TERMS.register("logit-standardization")
class StandardizedKD(nn.Module):
    """Distillation between standard scores of logits: each row less its mean, over its own deviation.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperature: Base temperature; softens both sides' scores, the loss is multiplied by its square.

    Reference:
        arXiv 2403.01427.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, temperature: float = 2.0) -> None:
        super().__init__()
        require_logits("logit-standardization", student, teacher, temperature=temperature)
        self.temperature = temperature
        self.needs = Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return K.standardized_kl(student.logits, teacher.logits, temperature=self.temperature)
