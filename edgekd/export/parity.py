"""Proof that the torch network and its ONNX file compute the same logits, on real and on fresh random images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ConfigError, DataError, ParityError
from edgekd.core.seeds import derive_seed
from edgekd.export.fp16_rounding import fp16_rounded
from edgekd.export.model_file import read_content, read_proto
from edgekd.export.ort_run import run_onnx
from edgekd.export.torch_export import evaluation_copy

Floats = npt.NDArray[np.float32]

_TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
_DYNAMIC_BATCHES = (1, 3, 8)
_RANDOM_IMAGES = 16
_SMALLEST_SCALE = 1e-12


class Parity(Protocol):
    """The outcome of a comparison."""

    @property
    def is_ok(self) -> bool:
        """Whether the two sides agree."""
        ...

    def describe(self) -> str:
        """Say in one line what was compared and how far apart it is."""
        ...


@dataclass(frozen=True)
class ParityReport:
    """How far apart two sets of logits are.

    Attributes:
        max_abs: Largest absolute difference of a logit; infinite where either side is not finite.
        max_rel: `max_abs` divided by the root mean square of the torch logits.
        argmax_agreement: Share of images with the same top class, 0..1.
        n: Images compared, real and random.
        tolerance: Limit of `max_rel`.
        batches: Batch sizes tried.
    """

    max_abs: float
    max_rel: float
    argmax_agreement: float
    n: int
    tolerance: float
    batches: tuple[int, ...]

    @property
    def is_ok(self) -> bool:
        """Whether every image is within tolerance."""
        return self.max_rel <= self.tolerance

    def describe(self) -> str:
        """Say in one line what was compared and how far apart it is."""
        return (
            f"torch and ONNX logits differ by at most {self.max_abs:.3g} (relative {self.max_rel:.3g}, "
            f"tolerance {self.tolerance:g}), same top class on {self.argmax_agreement:.2%} of {self.n} images, "
            f"batch sizes {', '.join(map(str, self.batches))}"
        )


@dataclass(frozen=True)
class TaskParity:
    """Whether two sets of logits score the same on labelled images.

    Attributes:
        accuracy_a: Top-1 of the first, 0..1.
        accuracy_b: Top-1 of the second, 0..1.
        flipped: Images that only one of them classifies correctly.
        n: Images compared.
    """

    accuracy_a: float
    accuracy_b: float
    flipped: int
    n: int

    @property
    def is_ok(self) -> bool:
        """Whether both have exactly the same accuracy."""
        return self.accuracy_a == self.accuracy_b

    def describe(self) -> str:
        """Say in one line what was compared and how far apart it is."""
        return (
            f"top-1 is {self.accuracy_a:.4f} on one side and {self.accuracy_b:.4f} on the other over {self.n} images "
            f"({self.flipped} are right on one side only)"
        )


def parity(
    module: nn.Module, onnx: OnnxModel, images: Floats, *, tolerance: float | None = None, seed: int = 0
) -> ParityReport:
    """Compare a network with its ONNX file on ONNX Runtime's CPU provider.

    Each batch size (several when the batch is dynamic) is run on all real images and on its own fresh random ones. An
    fp16 model is run with explicit rounding (`fp16_rounded`), since the provider itself would compute in float32.

    Args:
        module: The torch network; evaluated on a copy in evaluation mode.
        onnx: Its export.
        images: Real images, float32 `[n, C, H, W]` in 0..1.
        tolerance: Limit of the relative difference; by default 1e-4 for fp32 and 2e-2 for fp16.
        seed: Seed of the random images.

    Returns:
        The differences over all images and batch sizes.

    Raises:
        ConfigError: No tolerance is given and the precision (int8) has no default one.
        DataError: The images have another shape or type, are not finite, or there are none.
        ExportError: ONNX Runtime cannot run the model.
        PreconditionError: `onnxruntime` is not installed.
        StorageError: The ONNX file has changed.
    """
    limit = _tolerance(onnx, tolerance)
    _check_images(images, onnx)
    frozen = evaluation_copy(module)
    content = _checked_content(onnx)
    batches = (onnx.batch,) if onnx.batch else _DYNAMIC_BATCHES
    expected, found = [], []
    for batch in batches:
        inputs = np.concatenate([images, _random_images(onnx.input_shape, derive_seed(seed, "parity", batch))])
        expected.append(_torch_logits(frozen, inputs))
        found.append(run_onnx(content, inputs, batch=batch))
    return _compared(np.concatenate(expected), np.concatenate(found), limit, batches)


def require_parity(report: Parity) -> None:
    """Raise `ParityError` with the numbers when a comparison did not hold."""
    if not report.is_ok:
        raise ParityError(f"parity is broken: {report.describe()}; do not ship this model")


def task_parity(logits_a: Floats, logits_b: Floats, labels: npt.NDArray[np.int64]) -> TaskParity:
    """Compare the top-1 accuracy of two sets of logits of the same images.

    Args:
        logits_a: Logits `[n, K]`.
        logits_b: Logits `[n, K]`.
        labels: True classes `[n]`, 0..K-1.

    Returns:
        Both accuracies and the number of images that changed sides.

    Raises:
        DataError: The shapes do not fit together, a label is out of range, or there are no images.
    """
    if logits_a.ndim != 2 or logits_a.shape != logits_b.shape or labels.shape != logits_a.shape[:1] or not len(labels):
        raise DataError(
            f"logits {logits_a.shape} and {logits_b.shape} with labels {labels.shape} do not describe the same images"
        )
    classes = logits_a.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"labels run from {labels.min()} to {labels.max()}; the logits have {classes} classes")
    right_a, right_b = logits_a.argmax(1) == labels, logits_b.argmax(1) == labels
    return TaskParity(float(right_a.mean()), float(right_b.mean()), int((right_a != right_b).sum()), len(labels))


def _tolerance(onnx: OnnxModel, given: float | None) -> float:
    if given is not None:
        return given
    if onnx.precision not in _TOLERANCES:
        raise ConfigError(f"{onnx.precision} logits have no default tolerance: compare accuracy, or give a tolerance")
    return _TOLERANCES[onnx.precision]


def _checked_content(onnx: OnnxModel) -> bytes:
    if onnx.precision != "fp16":
        return read_content(onnx)
    content: bytes = fp16_rounded(read_proto(onnx)).SerializeToString()
    return content


def _check_images(images: Floats, onnx: OnnxModel) -> None:
    if images.dtype != np.float32 or images.ndim != 4 or images.shape[1:] != onnx.input_shape or not len(images):
        wanted = ", ".join(map(str, onnx.input_shape))
        raise DataError(f"parity needs float32 images [n, {wanted}], got {images.dtype} {list(images.shape)}")
    if not np.isfinite(images).all():
        raise DataError("parity images hold NaN or infinite values")


def _random_images(shape: tuple[int, int, int], seed: int) -> Floats:
    return np.random.default_rng(seed).random((_RANDOM_IMAGES, *shape), dtype=np.float32)


def _torch_logits(module: nn.Module, images: Floats) -> Floats:
    with torch.no_grad():
        parts = [module(torch.from_numpy(images[start : start + 64])).numpy() for start in range(0, len(images), 64)]
    return np.concatenate(parts)


def _compared(expected: Floats, found: Floats, limit: float, batches: tuple[int, ...]) -> ParityReport:
    if expected.shape != found.shape:
        raise ParityError(f"torch returns logits {expected.shape} and the ONNX model {found.shape}; export it again")
    is_finite = bool(np.isfinite(expected).all() and np.isfinite(found).all())
    reference = expected.astype(np.float64)
    max_abs = float(np.abs(reference - found).max()) if is_finite else float("inf")
    scale = float(np.sqrt(np.mean(reference**2))) if is_finite else 1.0
    return ParityReport(
        max_abs=max_abs,
        max_rel=max_abs / max(scale, _SMALLEST_SCALE),
        argmax_agreement=float((expected.argmax(1) == found.argmax(1)).mean()),
        n=len(expected),
        tolerance=limit,
        batches=batches,
    )
