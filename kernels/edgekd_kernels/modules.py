"""Losses as modules: options in the constructor, a reduction, and what is learned held as parameters.

Each public loss of `edgekd_kernels.functional` has a module of the same name in capitals: `KdKl(temperature=4.0)`
stands for `kd_kl(..., temperature=4.0)`, is called with the tensors in the same order, and returns their mean over the
batch. `Vid`, `CurriculumKl` and `ProjectedMse` hold parameters that the loss learns, `Projected` a convolution that
brings the student's map to the teacher's width for any loss of two maps: give their parameters to the optimiser.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekd_kernels import functional

Reduction = Literal["mean", "sum", "none"]
_REDUCED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda values: values,
}


class Loss(nn.Module):
    """A loss with its options fixed.

    Args:
        function: Of tensors and options, returns `[B]`.
        reduction: `"mean"` and `"sum"` over the batch, or `"none"` for `[B]`.
        options: The function's options by keyword; those left out have its defaults.

    Raises:
        TypeError: The function has no such option, or one is missing.
        ValueError: There is no such reduction.
    """

    def __init__(self, function: Callable[..., Tensor], *, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__()
        if reduction not in _REDUCED:
            raise ValueError(f"reduction must be one of {', '.join(_REDUCED)}, got {reduction!r}")
        _require_options(function, options)
        self.function = function
        self.reduction = reduction
        self.options = options

    def forward(self, *tensors: Tensor, **more: Tensor | None) -> Tensor:
        """Return the loss.

        Args:
            tensors: The function's tensors, in its order.
            more: Tensors by name.
        """
        return _REDUCED[self.reduction](self.function(*tensors, **more, **self.options))

    def extra_repr(self) -> str:
        """Return options and reduction for `print`."""
        return ", ".join(f"{name}={value!r}" for name, value in [*self.options.items(), ("reduction", self.reduction)])


class Vid(Loss):
    """`functional.vid` with its variances, one for each channel of the teacher.

    Args:
        channels: Of the teacher's map.
        variance: The variances' start.
        reduction: See `Loss`.
        options: Of `functional.vid`.

    Raises:
        TypeError: The function has no such option.
        ValueError: The start is not positive, or there is no such reduction.
    """

    def __init__(self, channels: int, *, variance: float = 5.0, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__(functional.vid, reduction=reduction, **options)
        if not variance > 0:
            raise ValueError(f"variance must be positive, got {variance}")
        raw = variance + math.log(-math.expm1(-variance))
        self.raw_variance = nn.Parameter(torch.full((channels,), raw))

    def forward(self, mean: Tensor, teacher_map: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss.

        Args:
            mean: `[B, C, H, W]`, the teacher's map as predicted from the student.
            teacher_map: The same shape.
        """
        return super().forward(mean, teacher_map, self.raw_variance)


class CurriculumKl(Loss):
    """`functional.curriculum_kl` with its temperature.

    Args:
        gradient_scale: Multiplies the temperature's gradient; negative makes the task harder.
        reduction: See `Loss`.
        options: Of `functional.curriculum_kl`.

    Raises:
        TypeError: The function has no such option.
        ValueError: There is no such reduction.
    """

    def __init__(self, *, gradient_scale: float = -1.0, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__(functional.curriculum_kl, reduction=reduction, gradient_scale=gradient_scale, **options)
        self.raw_temperature = nn.Parameter(torch.ones(()))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss.

        Args:
            student_logits: `[B, K]`.
            teacher_logits: The same shape.
        """
        return super().forward(student_logits, teacher_logits, self.raw_temperature)


class ProjectedMse(Loss):
    """`functional.projected_mse` with its projection, started as a 1x1 convolution is.

    Args:
        student_channels: Of the student's map.
        teacher_channels: Of the teacher's map.
        bias: Whether the projection adds one.
        reduction: See `Loss`.
        options: Of `functional.projected_mse`.

    Raises:
        TypeError: The function has no such option.
        ValueError: There is no such reduction.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        *,
        student_channels: int,
        teacher_channels: int,
        bias: bool = False,
        reduction: Reduction = "mean",
        **options: Any,
    ) -> None:
        super().__init__(functional.projected_mse, reduction=reduction, **options)
        start = nn.Linear(student_channels, teacher_channels, bias=bias)
        self.weight = start.weight
        self.register_parameter("bias", start.bias)

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:  # type: ignore[override]
        """Return the loss.

        Args:
            student_map: `[B, C, ...]`.
            teacher_map: `[B, C', ...]`, the same positions.
        """
        return super().forward(student_map, teacher_map, self.weight, bias=self.bias)


class Projected(nn.Module):
    """A loss between maps of different widths: a learned 1x1 convolution brings the student's to the teacher's.

    Args:
        loss: Module of two maps, such as `HintMse()`.
        student_channels: Of the student's map.
        teacher_channels: Of the teacher's map.
    """

    def __init__(self, loss: nn.Module, *, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.loss = loss
        self.projection = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Return the loss.

        Args:
            student_map: `[B, C, H, W]`.
            teacher_map: `[B, C', H, W]`.
        """
        values: Tensor = self.loss(self.projection(student_map), teacher_map)
        return values


def _require_options(function: Callable[..., Tensor], options: Mapping[str, Any]) -> None:
    keywords = {  # and `bank_size` of CRD, a number among the tensors
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in inspect.signature(function).parameters.items()
        if (parameter.kind is inspect.Parameter.KEYWORD_ONLY or parameter.annotation == "int")
        and not str(parameter.annotation).startswith("Tensor")  # which goes with each call
    }
    name = getattr(function, "__name__", str(function))
    if unknown := sorted(options.keys() - keywords):
        raise TypeError(f"{name} has no option {', '.join(unknown)}; there are {', '.join(keywords) or 'none'}")
    if missing := [each for each, is_needed in keywords.items() if is_needed and each not in options]:
        raise TypeError(f"{name} needs {', '.join(missing)}")


def _module(function: Callable[..., Tensor]) -> Callable[..., Loss]:
    """Return a class of modules of one function."""

    def initialise(self: Loss, *, reduction: Reduction = "mean", **options: Any) -> None:
        Loss.__init__(self, function, reduction=reduction, **options)

    name = "".join(word.capitalize() for word in function.__name__.split("_"))
    summary = f"`functional.{function.__name__}` as a module: its options and `reduction` by keyword; see `Loss`."
    return type(name, (Loss,), {"__init__": initialise, "__doc__": summary, "__module__": __name__})


ActivationBoundary = _module(functional.activation_boundary)
AttentionTransfer = _module(functional.attention_transfer)
BatchCorrelation = _module(functional.batch_correlation)
BranchKl = _module(functional.branch_kl)
CkaDissimilarity = _module(functional.cka_dissimilarity)
ClassCorrelation = _module(functional.class_correlation)
CorrelationCongruence = _module(functional.correlation_congruence)
Crd = _module(functional.crd)
Cwd = _module(functional.cwd)
Dist = _module(functional.dist)
Dkd = _module(functional.dkd)
FactorTransfer = _module(functional.factor_transfer)
Fsp = _module(functional.fsp)
GaussianKl = _module(functional.gaussian_kl)
GaussianNll = _module(functional.gaussian_nll)
GradientMatch = _module(functional.gradient_match)
HiddenRelation = _module(functional.hidden_relation)
HintL2 = _module(functional.hint_l2)
HintMse = _module(functional.hint_mse)
HintMseGrouped = _module(functional.hint_mse_grouped)
InfoNce = _module(functional.info_nce)
KdCe = _module(functional.kd_ce)
KdKl = _module(functional.kd_kl)
Mgd = _module(functional.mgd)
Mlkd = _module(functional.mlkd)
ModalityGram = _module(functional.modality_gram)
Nkd = _module(functional.nkd)
Nst = _module(functional.nst)
PartialL2 = _module(functional.partial_l2)
PixelCrossEntropy = _module(functional.pixel_cross_entropy)
Pkd = _module(functional.pkd)
Pkt = _module(functional.pkt)
PooledMse = _module(functional.pooled_mse)
ProjectedMatch = _module(functional.projected_match)
RkdAngle = _module(functional.rkd_angle)
RkdDistance = _module(functional.rkd_distance)
SelfSupervision = _module(functional.self_supervision)
SimilarityPreserving = _module(functional.similarity_preserving)
SimilarityTransfer = _module(functional.similarity_transfer)
StandardizedKl = _module(functional.standardized_kl)
TransformedKd = _module(functional.transformed_kd)
