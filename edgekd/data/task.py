"""The task noun: what the labels of a data set are, how long a network's output is for them, how an answer is judged.

A task says nothing about the inputs: pictures `[B, C, H, W]` and tokens `[B, L]` may carry labels of any kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import DataError
from edgekd.data.metrics import (
    IGNORED,
    MEAN_IOU,
    R_SQUARED,
    R_SQUARED_OF_MEANS,
    SAME_CLASS,
    SAME_PIXEL_CLASS,
    TOP_1,
    UNLABELLED,
    Labels,
    Metric,
    Outputs,
)

Kind: TypeAlias = Literal["classification", "segmentation", "regression"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_BETTER_THAN_CHANCE = 1.5

_METRICS: dict[Kind, Metric] = {"classification": TOP_1, "segmentation": MEAN_IOU, "regression": R_SQUARED}
_AGREEMENT: dict[Kind, Metric] = {
    "classification": SAME_CLASS,
    "segmentation": SAME_PIXEL_CLASS,
    "regression": R_SQUARED_OF_MEANS,
}
_FORMS: dict[Kind, tuple[type[Any], int, str]] = {
    "classification": (np.int64, 1, "int64 [N]"),
    "segmentation": (np.int64, 3, "int64 [N, H, W]"),
    "regression": (np.float32, 2, "float32 [N, D]"),
}


@dataclass(frozen=True)
class Task:
    """What is to be learnt from inputs of any kind.

    | kind | labels | output of a network | answer |
    | --- | --- | --- | --- |
    | `classification` | int64 `[N]`, -1 = none | logits `[B, K]` | largest logit |
    | `segmentation` | int64 `[N, H, W]`, 255 = ignored | logits `[B, K, H, W]` | largest logit of each pixel |
    | `regression` | float32 `[N, D]` | `[B, 2D]`: means, then log variances | means |

    Real-valued labels are taken as they are: give them unit size, since nothing rescales them.

    Attributes:
        kind: What a label is.
        targets: Names of the `K` classes, or of the `D` quantities.

    Raises:
        DataError: No target, or more classes than can be told from the ignored label.
    """

    kind: Kind
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.targets:
            raise DataError(f"a {self.kind} task needs at least one target")
        if self.kind == "segmentation" and len(self.targets) > IGNORED:
            raise DataError(f"{len(self.targets)} classes of pixels; label {IGNORED} is the ignored one, give fewer")

    @property
    def num_outputs(self) -> int:
        """Length of the channel axis of a network's output."""
        return (2 if self.kind == "regression" else 1) * len(self.targets)

    @property
    def is_dense(self) -> bool:
        """Whether every pixel has its own label and output."""
        return self.kind == "segmentation"

    @property
    def metric(self) -> Metric:
        """The score that the task is judged by."""
        return _METRICS[self.kind]

    @property
    def no_skill(self) -> float:
        """Best score of a network that gives every input the same answer, when classes are equally frequent."""
        return 0.0 if self.kind == "regression" else 1 / len(self.targets)

    def is_skilled(self, score: float) -> bool:
        """Whether a score is clearly above that of one answer to everything."""
        return score > _BETTER_THAN_CHANCE * self.no_skill

    @property
    def agreement_measure(self) -> Metric:
        """How far two networks answer alike, the one's outputs held against the other's answers."""
        return _AGREEMENT[self.kind]

    def answers(self, outputs: Outputs) -> Labels:
        """Return what outputs `[N, ...]` say, in the form of labels."""
        return outputs[:, : len(self.targets)] if self.kind == "regression" else outputs.argmax(axis=1)

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """Return how far two networks answer alike, whatever the truth; 1.0 for equal answers.

        Args:
            outputs: `[N, ...]` of one network.
            reference: `[N, ...]` of the other.

        Returns:
            Share of inputs (of pixels) with the same answer, 0..1; in regression R² with `reference` as the truth.
        """
        return self.agreement_measure.of(outputs, self.answers(reference))

    def strata(self, labels: Labels) -> NDArray[np.int64]:
        """Return for each row the group that a fair split keeps the share of: int64 `[N]`, the class or else 0."""
        if self.kind == "classification":
            return labels.astype(np.int64, copy=False)
        return np.zeros(len(labels), np.int64)

    def check_labels(self, labels: Labels, origin: str = "labels") -> None:
        """Raise `DataError` unless labels are of this task: type, axes, and values that have a meaning.

        Args:
            labels: `[N, ...]`.
            origin: Where they came from, for messages.
        """
        dtype, axes, words = _FORMS[self.kind]
        if labels.dtype != dtype or labels.ndim != axes:
            raise DataError(f"{origin}: {self.kind} needs {words}, got {labels.dtype} {list(labels.shape)}")
        if self.kind == "regression":
            self._check_values(labels, origin)
        else:
            self._check_classes(labels, origin)

    def _check_values(self, labels: Labels, origin: str) -> None:
        if labels.shape[1] != len(self.targets):
            raise DataError(f"{origin}: {labels.shape[1]} values a row for {len(self.targets)} targets")
        if bad := int((~np.isfinite(labels)).sum()):
            raise DataError(f"{origin}: {bad} of {labels.size} values are NaN or infinite")

    def _check_classes(self, labels: Labels, origin: str) -> None:
        known = labels[labels != (IGNORED if self.is_dense else UNLABELLED)]
        if known.size and (known.min() < 0 or known.max() >= len(self.targets)):
            besides = f" or {IGNORED} (ignored)" if self.is_dense else f" or {UNLABELLED} (none)"
            raise DataError(
                f"{origin}: classes {known.min()}..{known.max()} do not fit 0..{len(self.targets) - 1}{besides}"
            )
