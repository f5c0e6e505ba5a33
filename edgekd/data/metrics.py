"""Scores that tasks are judged by: higher is better, 1.0 is perfect.

A metric is a tally that adds up over batches and a score of the whole tally, so that a split of dense labels is never
held in memory at once, and that torch, ONNX Runtime and engines are judged by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError

Labels: TypeAlias = NDArray[np.int64] | NDArray[np.float32]
Outputs: TypeAlias = NDArray[np.float32]
Tally: TypeAlias = NDArray[np.float64]

_ROUNDING = 1e-12

IGNORED = 255
"""The label of pixels that count neither in a loss nor in a score."""


UNLABELLED = -1
"""The class of inputs that have none."""


def has_label(labels: Labels) -> NDArray[np.bool_]:
    """Say which rows of labels `[N, ...]` are labelled, bool `[N]`: all but inputs of class `UNLABELLED`."""
    return labels != UNLABELLED if labels.ndim == 1 else np.ones(len(labels), np.bool_)


@dataclass(frozen=True)
class Metric:
    """A score.

    Attributes:
        name: As it is printed (`"mean IoU"`).
        key: As it is written into documents (`"mean_iou"`).
        is_share: Whether it is printed as a percentage, its differences as points.
        tally: Outputs and labels of a batch to figures that are added up over batches.
        score: The sum to the score.
    """

    name: str
    key: str
    is_share: bool
    tally: Callable[[Outputs, Labels], Tally]
    score: Callable[[Tally], float]

    def of(self, outputs: Outputs, labels: Labels) -> float:
        """Return the score of outputs `[N, ...]` held against labels `[N, ...]`."""
        return self.over([(outputs, labels)])

    def over(self, batches: Iterable[tuple[Outputs, Labels]]) -> float:
        """Return the score over all batches of outputs and labels.

        Raises:
            DataError: There is none, or the score is undefined.
        """
        tallies = [self.tally(outputs, labels) for outputs, labels in batches if len(labels)]
        if not tallies:
            raise DataError(f"{self.name} cannot be measured on no inputs")
        return self.score(np.sum(tallies, axis=0))

    def text(self, score: float) -> str:
        """Return name and score as printed: `"top-1 91.20 %"`, `"R² 0.831"`."""
        return f"{self.name} {100 * score:.2f} %" if self.is_share else f"{self.name} {score:.3f}"

    def gap(self, difference: float) -> str:
        """Return a difference of scores as printed: `"1.67 points"`, `"0.0167"`."""
        return f"{100 * difference:.3g} points" if self.is_share else f"{difference:.3g}"


def _hits(outputs: Outputs, labels: Labels) -> Tally:
    if missing := int((labels == UNLABELLED).sum()):
        raise DataError(f"top-1 cannot be measured: {missing} of {len(labels)} inputs have no label")
    return np.array([(outputs.argmax(axis=1) == labels).sum(), labels.size], np.float64)


def _share(tally: Tally) -> float:
    return float(tally[0] / tally[1])


def _confusion(outputs: Outputs, labels: Labels) -> Tally:
    classes = outputs.shape[1]
    counted = labels != IGNORED
    cells = labels[counted].astype(np.int64) * classes + outputs.argmax(axis=1)[counted]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.float64)


def _mean_iou(confusion: Tally) -> float:
    both = np.diagonal(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    if not either.any():
        raise DataError("mean IoU cannot be measured: every pixel is ignored")
    return float((both[either > 0] / either[either > 0]).mean())


def _moments(outputs: Outputs, labels: Labels) -> Tally:
    truth = labels.astype(np.float64)
    error = outputs[:, : truth.shape[1]] - truth
    return np.stack([np.full(truth.shape[1], float(len(truth))), truth.sum(0), (truth**2).sum(0), (error**2).sum(0)])


def _r_squared(moments: Tally) -> float:
    count, first, second, error = moments
    spread = second - first**2 / count
    varies = spread > _ROUNDING * second
    explained = 1 - error / np.where(varies, spread, 1)
    return float(np.where(varies, explained, error == 0).mean())


TOP_1 = Metric("top-1", "accuracy", is_share=True, tally=_hits, score=_share)
"""Share of inputs whose largest logit is the label."""

MEAN_IOU = Metric("mean IoU", "mean_iou", is_share=True, tally=_confusion, score=_mean_iou)
"""Intersection over union of each class over all pixels that are not ignored, the mean over classes that occur."""

R_SQUARED = Metric("R²", "r_squared", is_share=False, tally=_moments, score=_r_squared)
"""Share of the labels' variance that the means explain, the mean over targets: 0 for the labels' mean, below for worse.

A target that never varies counts 1 where it is met exactly and else 0, as in scikit-learn.
"""

SAME_CLASS = replace(TOP_1, name="same class", key="same_class")
"""Agreement of two networks on inputs."""

SAME_PIXEL_CLASS = replace(TOP_1, name="same class of a pixel", key="same_pixel_class")
"""Agreement of two networks on pixels, each counting alike, ignored or not."""

R_SQUARED_OF_MEANS = replace(R_SQUARED, name="R² of means", key="r_squared_of_means")
"""Agreement of two networks on real values, the second one's means being the truth."""
