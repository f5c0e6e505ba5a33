"""Proof that the torch network and its ONNX file compute the same outputs, on real and on fresh random inputs."""

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
from edgekd.data import Labels, NetInputs, Task
from edgekd.export.fp16_rounding import fp16_rounded
from edgekd.export.model_file import read_content, read_proto
from edgekd.export.net_inputs import input_problem, random_inputs
from edgekd.export.ort_run import run_onnx
from edgekd.export.torch_export import evaluation_copy

Floats = npt.NDArray[np.float32]

_TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}
_DYNAMIC_BATCHES = (1, 3, 8)
_RANDOM_INPUTS = 16
_SMALLEST_SCALE = 1e-12
_SAME_SCORE = 1e-4


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
    """How far apart two sets of outputs are.

    Attributes:
        max_abs: Largest absolute difference of an output; infinite where either side is not finite.
        max_rel: `max_abs` divided by the root mean square of the torch outputs.
        agreement: How far both answer alike in the task at hand (`Task.agreement`); None where no task is known.
        n: Inputs compared, real and random.
        tolerance: Limit of `max_rel`.
        batches: Batch sizes tried.
    """

    max_abs: float
    max_rel: float
    agreement: float | None
    n: int
    tolerance: float
    batches: tuple[int, ...]

    @property
    def is_ok(self) -> bool:
        """Whether every input is within tolerance."""
        return self.max_rel <= self.tolerance

    def describe(self) -> str:
        """Say in one line what was compared and how far apart it is."""
        alike = "" if self.agreement is None else f" agreement of answers {self.agreement:.4f},"
        return (
            f"torch and ONNX outputs differ by at most {self.max_abs:.3g} (relative {self.max_rel:.3g}, "
            f"tolerance {self.tolerance:g}) on {self.n} inputs,{alike} batch sizes {', '.join(map(str, self.batches))}"
        )


@dataclass(frozen=True)
class TaskParity:
    """Whether two sets of outputs score the same on labelled inputs.

    Attributes:
        metric: Name of the score.
        score_a: Score of the first.
        score_b: Score of the second.
        agreement: How far both answer alike, whatever the truth (`Task.agreement`).
        n: Inputs compared.
    """

    metric: str
    score_a: float
    score_b: float
    agreement: float
    n: int

    @property
    def is_ok(self) -> bool:
        """Whether both score the same but for rounding: less than one of 10,000 inputs makes in a share."""
        return abs(self.score_a - self.score_b) <= _SAME_SCORE

    def describe(self) -> str:
        """Say in one line what was compared and how far apart it is."""
        return (
            f"{self.metric} is {self.score_a:.5f} on one side and {self.score_b:.5f} on the other over {self.n} inputs "
            f"(agreement of answers {self.agreement:.4f})"
        )


def parity(
    module: nn.Module,
    onnx: OnnxModel,
    inputs: NetInputs,
    *,
    task: Task | None = None,
    tolerance: float | None = None,
    seed: int = 0,
) -> ParityReport:
    """Compare a network with its ONNX file on ONNX Runtime's CPU provider.

    Each batch size (several when the batch is dynamic) is run on all real inputs and on its own fresh random ones. An
    fp16 model is run with explicit rounding (`fp16_rounded`), since the provider itself would compute in float32.

    Args:
        module: The torch network; evaluated on a copy in evaluation mode.
        onnx: Its export.
        inputs: Real inputs: pictures float32 `[n, C, H, W]` in 0..1, or tokens int64 `[n, L]`.
        task: What the outputs mean, for the agreement of answers; it decides nothing.
        tolerance: Limit of the relative difference; by default 1e-4 for fp32 and 2e-2 for fp16.
        seed: Seed of the random inputs.

    Returns:
        The differences over all inputs and batch sizes.

    Raises:
        ConfigError: No tolerance is given and the precision (int8) has no default one.
        DataError: The inputs have another shape or type, are not finite, or there are none.
        ExportError: ONNX Runtime cannot run the model.
        PreconditionError: `onnxruntime` is not installed.
        StorageError: The ONNX file has changed.
    """
    limit = _tolerance(onnx, tolerance)
    if problem := input_problem(inputs, onnx):
        raise DataError(f"parity: {problem}")
    frozen = evaluation_copy(module)
    content = _checked_content(onnx)
    batches = (onnx.batch,) if onnx.batch else _DYNAMIC_BATCHES
    expected, found = [], []
    for batch in batches:
        drawn = random_inputs(onnx, _RANDOM_INPUTS, seed=derive_seed(seed, "parity", batch))
        given = np.concatenate([inputs, drawn])
        expected.append(_torch_outputs(frozen, given))
        found.append(run_onnx(content, given, batch=batch))
    return _compared(np.concatenate(expected), np.concatenate(found), task, limit, batches)


def require_parity(report: Parity) -> None:
    """Raise `ParityError` with the numbers when a comparison did not hold."""
    if not report.is_ok:
        raise ParityError(f"parity is broken: {report.describe()}; do not ship this model")


def task_parity(outputs_a: Floats, outputs_b: Floats, labels: Labels, task: Task) -> TaskParity:
    """Compare the scores of two sets of outputs for the same inputs.

    Args:
        outputs_a: `[n, ...]`.
        outputs_b: `[n, ...]`.
        labels: What is true, `[n, ...]`.
        task: What the labels are, and the score.

    Returns:
        Both scores, and how far the answers agree.

    Raises:
        DataError: The shapes do not fit together, the labels are not of the task, or there are no inputs.
    """
    task.check_labels(labels)
    if outputs_a.shape != outputs_b.shape or len(labels) != len(outputs_a) or outputs_a.shape[1] != task.num_outputs:
        raise DataError(
            f"outputs {outputs_a.shape} and {outputs_b.shape} with labels {labels.shape} are not of the same inputs"
        )
    metric = task.metric
    scores = metric.of(outputs_a, labels), metric.of(outputs_b, labels)
    return TaskParity(metric.name, *scores, task.agreement(outputs_a, outputs_b), len(labels))


def _tolerance(onnx: OnnxModel, given: float | None) -> float:
    if given is not None:
        return given
    if onnx.precision not in _TOLERANCES:
        raise ConfigError(f"{onnx.precision} outputs have no default tolerance: compare scores, or give a tolerance")
    return _TOLERANCES[onnx.precision]


def _checked_content(onnx: OnnxModel) -> bytes:
    if onnx.precision != "fp16":
        return read_content(onnx)
    content: bytes = fp16_rounded(read_proto(onnx)).SerializeToString()
    return content


def _torch_outputs(module: nn.Module, inputs: NetInputs) -> Floats:
    with torch.no_grad():
        parts = [module(torch.from_numpy(inputs[start : start + 64])).numpy() for start in range(0, len(inputs), 64)]
    return np.concatenate(parts)


def _compared(
    expected: Floats, found: Floats, task: Task | None, limit: float, batches: tuple[int, ...]
) -> ParityReport:
    if expected.shape != found.shape:
        raise ParityError(f"torch returns outputs {expected.shape} and the ONNX model {found.shape}; export it again")
    is_finite = bool(np.isfinite(expected).all() and np.isfinite(found).all())
    reference = expected.astype(np.float64)
    max_abs = float(np.abs(reference - found).max()) if is_finite else float("inf")
    scale = float(np.sqrt(np.mean(reference**2))) if is_finite else 1.0
    return ParityReport(
        max_abs=max_abs,
        max_rel=max_abs / max(scale, _SMALLEST_SCALE),
        agreement=task.agreement(found, expected) if task is not None and is_finite else None,
        n=len(expected),
        tolerance=limit,
        batches=batches,
    )
