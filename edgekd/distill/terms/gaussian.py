"""Terms of regression: what a network says is a Gaussian of each target, means `[B, D]` and log variances `[B, D]`."""

from __future__ import annotations

from typing import Literal

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.labelled import over_labelled
from edgekd.distill.trace import Trace, TraceSpec, require_same_width, select, shape_of


@TERMS.register("gaussian-nll")
class GaussianNLL(nn.Module):
    """Negative log-likelihood of the labels, the mean over labelled rows only.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        part: Which outputs of the student: `"logits"` or `"aux:NAME.logits"`.

    Reference:
        arXiv 2007.00051, reconstruction.
    """

    requires = ("labels",)
    leaves_out_unlabelled = True
    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, part: str = "logits") -> None:
        super().__init__()
        _require_gaussians("gaussian-nll", student, part)
        self.part = part
        self.needs = Needs(is_supervised=True)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; rows without a label are 0 and the others scaled so that the mean is over labelled rows."""
        targets = batch.labels.where(batch.is_labelled.unsqueeze(1), 0)
        return over_labelled(K.gaussian_nll(select(student, self.part), targets), batch)


@TERMS.register("gaussian-kl")
class GaussianKL(nn.Module):
    """KL(teacher || student) between Gaussians: what `kd` is to classes.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        part: Which outputs of the student: `"logits"` or `"aux:NAME.logits"`.
        target: Which outputs of the teacher.
        rows: `"all"`, or only the `"labelled"` ones, the mean being over these.

    Reference:
        arXiv 2007.00051, reconstruction.
    """

    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        part: str = "logits",
        target: str = "logits",
        rows: Literal["all", "labelled"] = "all",
    ) -> None:
        super().__init__()
        _require_gaussians("gaussian-kl", student, part)
        require_same_width(student, teacher, part, target)
        self.part, self.target, self.rows = part, target, rows
        self.needs = Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        values = K.gaussian_kl(select(student, self.part), select(teacher, self.target))
        return values if self.rows == "all" else over_labelled(values, batch)


def _require_gaussians(name: str, student: TraceSpec, part: str) -> None:
    if student.kind != "regression":
        raise ConfigError(f"{name} is for regression, this task is {student.kind}; use cross-entropy and kd")
    if shape_of(student, part) != (student.num_classes,):
        raise ConfigError(f"{name} on {part}: it has shape {shape_of(student, part)}, not ({student.num_classes},)")
