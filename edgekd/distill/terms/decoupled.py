"""Terms on logits that treat the label's class and the other classes apart."""

from __future__ import annotations

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.fitting import require_logits
from edgekd.distill.terms.labelled import over_labelled, safe_labels
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("dkd")
class DecoupledKD(nn.Module):
    """Decoupled distillation: the label against the rest, and the rest among themselves, each with its own weight.

    Rows without a label count 0, the others are scaled so that the mean is over labelled rows.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        alpha: Weight of the label against the rest.
        beta: Weight of the rest; the benchmark has 8, and 1 to 10 for single pairs of networks.
        temperature: Softens both sides; the loss is multiplied by its square.

    Reference:
        arXiv 2203.08679.
    """

    requires = ("labels",)
    leaves_out_unlabelled = True
    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        require_logits("dkd", student, teacher, temperature=temperature, least_classes=3)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.needs = Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = K.dkd(
            student.logits,
            teacher.logits,
            safe_labels(batch),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
        return over_labelled(values, batch)


@TERMS.register("nkd")
class NormalizedKD(nn.Module):
    """Normalised distillation: cross-entropy on the label weighted by the teacher, and among the other classes.

    Rows without a label count 0, the others are scaled so that the mean is over labelled rows.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        gamma: Weight of the other classes.
        temperature: Softens the other classes only.

    Reference:
        arXiv 2303.13005.
    """

    requires = ("labels",)
    leaves_out_unlabelled = True
    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        require_logits("nkd", student, teacher, temperature=temperature, least_classes=2)
        self.gamma, self.temperature = gamma, temperature
        self.needs = Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; it is not 0 at the teacher."""
        values = K.nkd(
            student.logits, teacher.logits, safe_labels(batch), gamma=self.gamma, temperature=self.temperature
        )
        return over_labelled(values, batch)
