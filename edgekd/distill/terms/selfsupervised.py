"""Terms on batches of four views of each image, as the view `rotations` makes them."""

from __future__ import annotations

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.terms.fitting import require_logits
from edgekd.distill.trace import Trace, TraceSpec, select, shape_of
from edgekd.distill.views import ROTATIONS


@TERMS.register("self-supervision")
class SelfSupervision(nn.Module):
    """Finding the own image of each rotated view among the images of the batch, by the cosine of projections.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        part: Projections of the network that learns.

    Reference:
        arXiv 2006.07114, first stage.
    """

    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, part: str = "aux:head.projection") -> None:
        super().__init__()
        shape_of(student, part)
        self.part, self.needs = part, Needs(is_supervised=True)

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; untransformed rows are 0 and the mean is over the others."""
        return K.self_supervision(select(student, self.part), views=ROTATIONS)


@TERMS.register("transformed-kd")
class TransformedKD(nn.Module):
    """Distillation on rotated views, those first whose class the teacher ranks best. Labels only rank.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperature: Softens both sides.
        ratio: Share of the views that the teacher gets wrong which are kept, 0..1.

    Reference:
        arXiv 2006.07114.
    """

    requires = ("labels",)
    row_claim = "together"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, temperature: float = 4.0, ratio: float = 1.0) -> None:
        super().__init__()
        require_logits("transformed-kd", student, teacher, temperature=temperature)
        _require_sensible(temperature, ratio)
        self.temperature, self.ratio, self.needs = temperature, ratio, Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; the mean is over the kept views."""
        return K.transformed_kd(
            student.logits,
            teacher.logits,
            batch.labels,
            temperature=self.temperature,
            ratio=self.ratio,
            views=ROTATIONS,
        )


@TERMS.register("similarity-transfer")
class SimilarityTransfer(nn.Module):
    """The teacher's similarities between rotated views and images, as a distribution over the images of the batch.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        temperature: Softens both sides; below 1 in the paper's code.
        ratio: Share of the views that the teacher gets wrong which are kept, 0..1.
        part: Projections of the student.
        target: Projections of the teacher; their width may differ.

    Reference:
        arXiv 2006.07114.
    """

    row_claim = "together"

    def __init__(
        self,
        student: TraceSpec,
        teacher: TraceSpec,
        *,
        temperature: float = 0.5,
        ratio: float = 0.75,
        part: str = "aux:head.projection",
        target: str = "aux:head.projection",
    ) -> None:
        super().__init__()
        shape_of(student, part)
        shape_of(teacher, target)
        _require_sensible(temperature, ratio)
        self.temperature, self.ratio = temperature, ratio
        self.part, self.target, self.needs = part, target, Needs()

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`; the mean is over the kept views."""
        return K.similarity_transfer(
            select(student, self.part),
            select(teacher, self.target),
            temperature=self.temperature,
            ratio=self.ratio,
            views=ROTATIONS,
        )


def _require_sensible(temperature: float, ratio: float) -> None:
    if not (temperature > 0 and 0 <= ratio <= 1):
        raise ConfigError(f"temperature must be positive and ratio in 0..1, got {temperature} and {ratio}")
