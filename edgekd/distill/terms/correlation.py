"""Terms on correlations between the predictions of a batch."""

from __future__ import annotations

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.fitting import require_logits
from edgekd.distill.trace import Trace, TraceSpec


@TERMS.register("dist")
class RelationalCorrelation(nn.Module):
    """DIST: probabilities correlated with the teacher's along the classes of a sample and the samples of a class.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        beta: Weight of the correlation along classes.
        gamma: Weight of the correlation along samples.
        temperature: Softens both sides; the loss is multiplied by its square.

    Reference:
        arXiv 2205.10536.
    """

    row_claim = "together"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        beta: float = 2.0,
        gamma: float = 2.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        require_logits("dist", student, teacher, temperature=temperature)
        self.beta, self.gamma, self.temperature = beta, gamma, temperature
        self.needs = Needs(least_rows=2)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return K.dist(student.logits, teacher.logits, beta=self.beta, gamma=self.gamma, temperature=self.temperature)


@TERMS.register("mlkd")
class MultiLevelKD(nn.Module):
    """Multi-level logit distillation: predictions matched one by one, between samples and between classes.

    A reconstruction: the authors' second, strongly augmented view and their confidence masks are left out. The class
    level grows about as (batch size / classes) squared; the published weight is for batches of 64 and 100 classes.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperatures: The three levels are added over all of these.

    Reference:
        Jin, Wang, Lin 2023, Multi-Level Logit Distillation, CVPR.
    """

    row_claim = "together"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0),
    ) -> None:
        super().__init__()
        if not temperatures:
            raise ConfigError("mlkd: temperatures is empty; name at least one")
        require_logits("mlkd", student, teacher, temperature=min(temperatures))
        self.temperatures = temperatures
        self.needs = Needs(least_rows=2)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; single values can be negative."""
        return K.mlkd(student.logits, teacher.logits, temperatures=self.temperatures)
