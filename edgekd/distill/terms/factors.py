"""Terms of factor transfer: the teacher's map paraphrased, and the student's map translated to the paraphrase."""

from __future__ import annotations

from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.step import Step
from edgekd.distill.terms.alignment import same_size
from edgekd.distill.terms.base import TERMS, Needs
from edgekd.distill.trace import Trace, TraceSpec, select, shape_of

_SLOPE = 0.1


@TERMS.register("paraphrasing")
class Paraphrasing(nn.Module):
    """Mean squared difference between a network's last map and its paraphraser's reconstruction of it.

    For a stage in which a network learns from itself.

    Args:
        student: Shapes of the traces of the network with the paraphraser.
        teacher: The same network's shapes.
        part: Its reconstruction.

    Reference:
        arXiv 1802.04977.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, part: str = "aux:paraphraser.reconstruction") -> None:
        super().__init__()
        self.part, self.target = part, _last_map(teacher, "paraphrasing")
        if shape_of(student, part) != shape_of(teacher, self.target):
            raise ConfigError(
                f"paraphrasing: {part} has shape {shape_of(student, part)}, "
                f"{self.target} has {shape_of(teacher, self.target)}; learner and source must be one network"
            )
        self.needs = Needs(teacher=(self.target,))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return K.hint_mse(select(student, self.part), teacher.feats[self.target])


@TERMS.register("factor-transfer")
class FactorTransfer(nn.Module):
    """The student's last map, translated by three 3x3 convolutions, brought to the teacher's factors.

    Args:
        student: Shapes of the student's traces.
        teacher: Shapes of the teacher's traces.
        target: The factors of the teacher's paraphraser.

    Reference:
        arXiv 1802.04977.
    """

    row_claim = "apart"

    def __init__(self, student: TraceSpec, teacher: TraceSpec, *, target: str = "aux:paraphraser.factor") -> None:
        super().__init__()
        factor = shape_of(teacher, target)
        if len(factor) != 3:
            raise ConfigError(f"factor-transfer: {target} has shape {factor}, not a map (C, H, W)")
        self.source, self.target = _last_map(student, "factor-transfer"), target
        self.translator = _translator(shape_of(student, self.source)[0], factor[0])
        self.needs = Needs(student=(self.source,))

    def forward(self, student: Trace, teacher: Trace, batch: Batch, step: Step) -> Tensor:
        """Return `[B]`."""
        return K.factor_transfer(*same_size(self.translator(student.feats[self.source]), select(teacher, self.target)))


def _last_map(spec: TraceSpec, term: str) -> str:
    if not spec.maps:
        raise ConfigError(f"{term}: the network has no feature map (C, H, W)")
    return list(spec.maps)[-1]


def _translator(inputs: int, factors: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel_size=3, padding=1),
        nn.LeakyReLU(_SLOPE, inplace=True),
        nn.Conv2d(inputs, factors, kernel_size=3, padding=1),
        nn.LeakyReLU(_SLOPE, inplace=True),
        nn.Conv2d(factors, factors, kernel_size=3, padding=1),
        nn.LeakyReLU(_SLOPE, inplace=True),
    )
