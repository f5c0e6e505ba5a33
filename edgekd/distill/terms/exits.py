"""Terms between an exit or branch of a network and the network itself."""

from __future__ import annotations

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.trace import Trace, TraceSpec, require_same_width, select


@TERMS.register("branch-kl")
class BranchKL(nn.Module):
    """KL of a branch's prediction from that of the network it grows on, which learns from it too; of classes only.

    Args:
        student: Shapes of the traces of the network that learns.
        teacher: Shapes of any trace; nothing of it is read.
        part: The branch's logits (`"aux:branch1.logits"`).
        temperature: Softens both sides; the loss is multiplied by its square.
        is_detached: Whether only the branch comes nearer, as in `kd` on the network's own outputs.

    Reference:
        Park et al. 2021, arXiv 2102.07650.
    """

    row_claim = "apart"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        part: str,
        temperature: float = 1.0,
        is_detached: bool = False,
    ) -> None:
        super().__init__()
        if student.kind == "regression":
            raise ConfigError("branch-kl reads logits of classes, this task is regression; use method kd or plain")
        require_same_width(student, student, part, "logits")
        if not temperature > 0:
            raise ConfigError(f"branch-kl: temperature must be positive, got {temperature}")
        self.part, self.temperature, self.is_detached = part, temperature, is_detached
        self.needs = Needs(is_supervised=True)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        trunk = student.logits.detach() if self.is_detached else student.logits
        return K.branch_kl(select(student, self.part), trunk, temperature=self.temperature)


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

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, part: str, target: str = "penultimate") -> None:
        super().__init__()
        self.part = part
        self.target = teacher.penultimate if target == "penultimate" else target
        require_same_width(student, teacher, self.part, self.target)
        self.needs = Needs(teacher=() if self.target.startswith("aux:") else (self.target,))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return K.hint_mse(select(student, self.part), select(teacher, self.target))
