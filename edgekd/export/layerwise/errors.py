"""How far two tensors that should be equal are apart, added up over batches so that no batch need be kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_SMALLEST_SCALE = 1e-12


@dataclass(frozen=True)
class Tolerance:
    """When a tensor counts as departed.

    Attributes:
        limit: Largest error that is fine.
        on: The error judged: `"max_rel"`, the largest difference over the root mean square of the reference, or
            `"rms_rel"`, the root mean square of the difference over that of the reference.
    """

    limit: float
    on: Literal["max_rel", "rms_rel"] = "max_rel"


TOLERANCES = {"fp32": Tolerance(1e-4), "fp16": Tolerance(2e-2), "int8": Tolerance(0.2, "rms_rel")}
"""What is fine by the precision of the second side: as the parity of exports judges, and 14 dB for int8."""


@dataclass(frozen=True)
class TensorError:
    """Differences of one tensor.

    Attributes:
        max_abs: Largest absolute difference; infinite where one side is not finite and the other is another value.
        max_rel: `max_abs` over the root mean square of the reference.
        rms_rel: Root mean square of the difference over that of the reference.
        snr_db: Signal-to-noise ratio, `-20 log10(rms_rel)`; None where the tensors are equal.
        cosine: Cosine of the angle between both; None where one is zero or not finite.
        largest: Largest finite magnitude of the reference.
        not_finite: Values that are NaN or infinite on the second side.
        count: Values compared; 0 where the shapes differ, which counts as infinitely far apart.
    """

    max_abs: float
    max_rel: float
    rms_rel: float
    snr_db: float | None
    cosine: float | None
    largest: float
    not_finite: int
    count: int

    def is_within(self, tolerance: Tolerance) -> bool:
        """Say whether the tensor is still fine."""
        return (self.max_rel if tolerance.on == "max_rel" else self.rms_rel) <= tolerance.limit


OTHER_SHAPE = TensorError(math.inf, math.inf, math.inf, -math.inf, None, 0.0, 0, 0)
"""The error of tensors whose shapes differ."""


class ErrorSum:
    """Adds up the error of a tensor over batches."""

    def __init__(self) -> None:
        self._count = self._not_finite = 0
        self._has_other_shape = False
        self._max_abs = self._largest = 0.0
        self._difference = self._reference = self._candidate = self._product = 0.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        """Add one batch."""
        if reference.shape != candidate.shape:
            self._has_other_shape = True
            return
        first, second = reference.astype(np.float64), candidate.astype(np.float64)
        is_same = (first == second) | (np.isnan(first) & np.isnan(second))
        is_finite = np.isfinite(first) & np.isfinite(second)
        difference = np.where(is_same, 0.0, np.inf)
        np.subtract(first, second, out=difference, where=is_finite)
        kept = np.where(is_finite, first, 0.0), np.where(is_finite, second, 0.0)
        self._count += first.size
        self._not_finite += int((~np.isfinite(second)).sum())
        self._max_abs = max(self._max_abs, float(np.abs(difference).max(initial=0.0)))
        self._largest = max(self._largest, float(np.abs(first[np.isfinite(first)]).max(initial=0.0)))
        self._difference += float((difference**2).sum())
        self._reference += float((kept[0] ** 2).sum())
        self._candidate += float((kept[1] ** 2).sum())
        self._product += float((kept[0] * kept[1]).sum())

    def result(self) -> TensorError:
        """Return the error of everything added."""
        if self._has_other_shape:
            return OTHER_SHAPE
        count = max(self._count, 1)
        scale = max(math.sqrt(self._reference / count), _SMALLEST_SCALE)
        rms_rel = math.sqrt(self._difference / count) / scale
        norms = math.sqrt(self._reference) * math.sqrt(self._candidate)
        return TensorError(
            max_abs=self._max_abs,
            max_rel=self._max_abs / scale,
            rms_rel=rms_rel,
            snr_db=None if rms_rel == 0 else (-20 * math.log10(rms_rel) if math.isfinite(rms_rel) else -math.inf),
            cosine=self._product / norms if norms > 0 and math.isfinite(rms_rel) else None,
            largest=self._largest,
            not_finite=self._not_finite,
            count=self._count,
        )
