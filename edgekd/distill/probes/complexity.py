"""How hard targets are for a given student: the norm of the function its kernel needs to fit them."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from edgekd.core.errors import ConfigError, DataError
from edgekd.data import Split
from edgekd.distill.probes.answers import logits_on
from edgekd.distill.probes.pictures import chance_of, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of

MAX_IMAGES = 2000
_MAX_JACOBIAN_VALUES = 200_000_000


def tangent_kernel(network: nn.Module, inputs: Tensor, *, outputs: tuple[int, ...] = ()) -> Tensor:
    """Return the neural tangent kernel `K = J J^T`, `J` being the outputs' derivatives by every parameter.

    Batch normalisation runs on its stored statistics, in float64.

    Args:
        network: `[B, C, H, W]` to logits `[B, K]`; it is left as it was.
        inputs: `[N, C, H, W]`.
        outputs: Which logits; all by default.

    Returns:
        float64 `[N * O, N * O]` on the CPU; rows run over the outputs of the first input, then of the second.

    Raises:
        ConfigError: The derivatives of so many outputs do not fit in memory.
    """
    frozen = copy.deepcopy(network).cpu().double().eval()
    parameters = {name: value.detach() for name, value in frozen.named_parameters()}
    buffers = dict(frozen.named_buffers())
    count = sum(value.numel() for value in parameters.values())

    def answer(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        logits: Tensor = functional_call(frozen, (weights, buffers), (one.unsqueeze(0),)).squeeze(0)
        return logits[list(outputs)] if outputs else logits

    shape = vmap(answer, in_dims=(None, 0))(parameters, inputs[:1].double()).shape
    rows = len(inputs) * shape[1]
    if rows * count > _MAX_JACOBIAN_VALUES:
        raise ConfigError(
            f"the kernel of {len(inputs)} images and {shape[1]} outputs needs {rows} x {count} derivatives, the limit "
            f"is {_MAX_JACOBIAN_VALUES:,}: lower images, or choose a few outputs"
        )
    jacobians = vmap(jacrev(answer), in_dims=(None, 0))(parameters, inputs.double())
    kernel = torch.zeros(rows, rows, dtype=torch.float64)
    for jacobian in jacobians.values():
        flat = jacobian.detach().reshape(rows, -1)
        kernel += flat @ flat.T
    return kernel


def adjusted_complexity(kernel: Tensor, residuals: Tensor, *, samples: int, epsilon: float = 0.0) -> Tensor:
    """Return `1/n * sqrt((Y - f_0)^T K^{-1} (Y - f_0) * Tr K)` for several targets at once.

    Solved by Cholesky factors of `K + epsilon * Tr(K) / R * I`.

    Args:
        kernel: `K`, float64 `[R, R]`, symmetric and positive.
        residuals: `Y - f_0`, float64 `[R, M]`, one column for each target.
        samples: `n`; `R` is that times the number of outputs.
        epsilon: Jitter as a share of the mean of the diagonal.

    Returns:
        float64 `[M]`.

    Raises:
        DataError: The kernel is singular at that jitter.

    Reference:
        Harutyunyan et al. 2023, arXiv 2301.12245; the formula is from memory of it.
    """
    trace = kernel.diagonal().sum()
    jitter = epsilon * trace / len(kernel)
    factor, failed = torch.linalg.cholesky_ex(kernel + jitter * torch.eye(len(kernel), dtype=kernel.dtype))
    if int(failed) or not trace > 0:
        raise DataError(f"the kernel of {len(kernel)} rows is singular at jitter {float(jitter):.3g}: raise epsilon")
    whitened = torch.linalg.solve_triangular(factor, residuals, upper=False)
    squared_norms: Tensor = whitened.square().sum(dim=0)
    return (squared_norms * trace).sqrt() / samples


def complexity(
    models: Models,
    split: Split,
    *,
    kernel: Literal["start", "trained"] = "start",
    temperatures: tuple[float, ...] = (1.0, 4.0),
    outputs: tuple[int, ...] = (),
    images: int = 50,
    epsilon: float = 1e-6,
    seed: int = 0,
) -> Figures:
    """Adjusted supervision complexity of targets for a student: the lower, the easier for it.

    All targets are probabilities, so that their complexities compare.

    Args:
        models: Roles `teacher`, `student`; `start` (the student as initialised) for the kernel at the start;
            `independent` where given.
        split: Where pictures are drawn from; targets are fitted on the training data.
        kernel: `start` for the kernel and outputs `f_0` at initialisation, `trained` for those of the trained student.
        temperatures: Of the teacher's probabilities, each above 0.
        outputs: Which classes; all by default.
        images: How many pictures, at most 2,000. The kernel needs fewer rows (pictures times outputs) than the student
            has parameters.
        epsilon: Jitter as a share of the mean of the kernel's diagonal.
        seed: Decides pictures and random labels.

    Returns:
        For the start, or for each trained student, the complexity of `labels`, `random_labels` (the same labels, dealt
        anew) and `teacher_T...` by temperature; `jitter`: what was added to the kernel's diagonal.

    Raises:
        ConfigError: An option out of range, a missing role, or more rows than parameters.
        DataError: The kernel is singular.

    Reference:
        Harutyunyan et al. 2023, arXiv 2301.12245; targets as probabilities and `f_0` as logits are a reconstruction.
    """
    _check(images, temperatures, epsilon)
    pictures = draw(split, images=images, seed=seed)
    inputs = pictures.inputs
    expected = logits_on(network_of(models, "teacher"), inputs).double()
    chosen = list(outputs or range(expected.shape[1]))
    if not all(0 <= output < expected.shape[1] for output in chosen):
        raise ConfigError(f"outputs are {chosen}, the networks have {expected.shape[1]}")
    one_hot = torch.eye(expected.shape[1], dtype=torch.float64)
    dealt = chance_of(seed, "complexity", "labels").permutation(len(pictures))
    targets = {
        "labels": one_hot[pictures.labels],
        "random_labels": one_hot[pictures.labels[torch.from_numpy(dealt)]],
        **{f"teacher_T{temperature:g}": (expected / temperature).softmax(dim=1) for temperature in temperatures},
    }

    def measure(network: nn.Module) -> Figures:
        _require_full_rank(network, rows=len(pictures) * len(chosen))
        tangent = tangent_kernel(network, inputs, outputs=outputs)
        now = logits_on(network, inputs).double()
        residuals = torch.stack([(target - now)[:, chosen].flatten() for target in targets.values()], dim=1)
        values = adjusted_complexity(tangent, residuals, samples=len(pictures), epsilon=epsilon)
        jitter = epsilon * tangent.diagonal().mean().item()
        return dict(zip(targets, values.tolist(), strict=True)) | {"jitter": jitter}

    return measure(network_of(models, "start")) if kernel == "start" else by_role(models, measure)


def _check(images: int, temperatures: tuple[float, ...], epsilon: float) -> None:
    if images > MAX_IMAGES:
        raise ConfigError(f"images is {images}, at most {MAX_IMAGES} fit into one kernel")
    if not all(temperature > 0 for temperature in temperatures):
        raise ConfigError(f"temperatures are {list(temperatures)}, each must be above 0")
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise ConfigError(f"epsilon is {epsilon}, it must not be negative")


def _require_full_rank(network: nn.Module, *, rows: int) -> None:
    count = sum(parameter.numel() for parameter in network.parameters())
    if rows > count:
        raise ConfigError(
            f"a kernel of {rows} rows (images x outputs) has rank at most {count}, the student's parameters: lower "
            "images, or choose a few outputs"
        )


PROBES.add(
    "complexity",
    Probe(
        complexity,
        title="Adjusted supervision complexity: how hard labels and teacher outputs are for this student's kernel",
        reference="Harutyunyan et al. 2023, arXiv 2301.12245 (formula from memory; choice of targets reconstructed)",
        chance="random labels; with kernel=trained the independent student's figures",
        uses=("independent", "start"),
        splits=("train",),
    ),
)
