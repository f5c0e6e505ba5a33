"""How hard targets are for a given student: the norm of the function its kernel needs to fit them."""

from __future__ import annotations

import copy
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from edgekd.core.errors import ConfigError, DataError
from edgekd.data import Split
from edgekd.distill.probes.answers import logits_on
from edgekd.distill.probes.pictures import chance_of, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of

MAX_IMAGES = 2000
_MAX_DERIVATIVES = 200_000_000
_VMAP_CHUNK = 128


def tangent_kernel(network: nn.Module, inputs: Tensor, *, output: int) -> Tensor:
    """Return the neural tangent kernel of one logit, `K_ij = <df(x_i)/dw, df(x_j)/dw>` over every parameter `w`.

    Batch normalisation runs on its stored statistics; everything is in float64 on the CPU.

    Args:
        network: `[B, C, H, W]` to logits `[B, K]`; it is left as it was.
        inputs: `[N, C, H, W]`.
        output: Which logit.

    Returns:
        float64 `[N, N]`.

    Raises:
        ConfigError: So many derivatives do not fit in memory.
    """
    frozen = copy.deepcopy(network).cpu().double().eval()
    parameters = {name: value.detach() for name, value in frozen.named_parameters()}
    buffers = dict(frozen.named_buffers())
    count = sum(value.numel() for value in parameters.values())
    if len(inputs) * count > _MAX_DERIVATIVES:
        raise ConfigError(
            f"the kernel of {len(inputs)} images needs as many derivatives by each of {count} parameters, the limit is "
            f"{_MAX_DERIVATIVES:,} in all: lower images"
        )

    def answer(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        logits: Tensor = functional_call(frozen, (weights, buffers), (one.unsqueeze(0),))
        return logits[0, output]

    derivatives = vmap(grad(answer), in_dims=(None, 0), chunk_size=_VMAP_CHUNK)(parameters, inputs.double())
    kernel = torch.zeros(len(inputs), len(inputs), dtype=torch.float64)
    for derivative in derivatives.values():
        rows = derivative.detach().flatten(1)
        kernel += rows @ rows.T
    return kernel


def adjusted_complexity(kernel: Tensor, residuals: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Return `1/n * sqrt((Y - f_0)^T K^{-1} (Y - f_0) * Tr K)` for several targets at once.

    Solved by the Cholesky factor of `K + epsilon * Tr(K) / n * I`.

    Args:
        kernel: `K`, float64 `[n, n]`, symmetric and positive.
        residuals: `Y - f_0`, float64 `[n, M]`, one column for each target.
        epsilon: Jitter as a share of the mean of the diagonal.

    Returns:
        float64 `[M]`.

    Raises:
        DataError: The kernel is singular at that jitter.

    Reference:
        Harutyunyan et al. 2023, arXiv 2301.12245; the formula is from memory of it.
    """
    samples = len(kernel)
    trace = kernel.diagonal().sum()
    jitter = epsilon * trace / samples
    factor, failed = torch.linalg.cholesky_ex(kernel + jitter * torch.eye(samples, dtype=kernel.dtype))
    if int(failed):
        raise DataError(f"the kernel of {samples} images is singular at jitter {float(jitter):.3g}: raise epsilon")
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
    images: int = 200,
    epsilon: float = 1e-6,
    seed: int = 0,
) -> Figures:
    """Adjusted supervision complexity of targets for a student: the lower, the easier for it.

    Each class is a problem of its own, one output against its targets; the figure is the mean over classes. All targets
    are probabilities, so that their complexities compare.

    Args:
        models: Roles `teacher`, `student`; `start` (the student as initialised) for the kernel at the start;
            `independent` where given.
        split: Where pictures are drawn from; targets are fitted on the training data.
        kernel: `start` for the kernel and outputs `f_0` at initialisation, `trained` for those of the trained student:
            its logits are far larger than probabilities, so such figures compare students, not with the start.
        temperatures: Of the teacher's probabilities, each above 0.
        outputs: Which classes; all by default.
        images: How many pictures, at most 2,000 and no more than the student has parameters.
        epsilon: Jitter as a share of the mean of the kernel's diagonal.
        seed: Decides pictures and random labels.

    Returns:
        For the start, or for each trained student, the complexity of `labels`, `random_labels` (the same labels, dealt
        anew) and `teacher_T...` by temperature; `jitter`: what was added to the kernel's diagonal, and
        `least_eigenvalue` of the kernel before that: where it is the smaller of the two, the jitter decides.

    Raises:
        ConfigError: An option out of range, a missing role, or more pictures than parameters.
        DataError: The kernel is singular.

    Reference:
        Harutyunyan et al. 2023, arXiv 2301.12245. Reconstruction: one output at a time, targets as probabilities, `f_0`
        as logits.
    """
    _check(images, temperatures, epsilon)
    pictures = draw(split, images=images, seed=seed)
    inputs = pictures.inputs
    expected = logits_on(network_of(models, "teacher"), inputs).double()
    chosen = list(outputs or range(expected.shape[1]))
    if not all(0 <= output < expected.shape[1] for output in chosen):
        raise ConfigError(f"outputs are {chosen}, the networks have {expected.shape[1]}")
    targets = _targets(expected, pictures.labels, temperatures, chance_of(seed, "complexity", "labels"))

    def measure(network: nn.Module) -> Figures:
        _require_full_rank(network, images=len(pictures))
        start = logits_on(network, inputs).double()
        residuals = torch.stack([target - start for target in targets.values()], dim=2)
        by_output = [
            _of_output(tangent_kernel(network, inputs, output=output), residuals[:, output], epsilon)
            for output in chosen
        ]
        names = (*targets, "jitter", "least_eigenvalue")
        return dict(zip(names, torch.stack(by_output).mean(dim=0).tolist(), strict=True))

    return measure(network_of(models, "start")) if kernel == "start" else by_role(models, measure)


def _targets(
    teacher: Tensor, labels: Tensor, temperatures: tuple[float, ...], rng: np.random.Generator
) -> dict[str, Tensor]:
    one_hot = torch.eye(teacher.shape[1], dtype=torch.float64)
    return {
        "labels": one_hot[labels],
        "random_labels": one_hot[labels[torch.from_numpy(rng.permutation(len(labels)))]],
        **{f"teacher_T{temperature:g}": (teacher / temperature).softmax(dim=1) for temperature in temperatures},
    }


def _of_output(kernel: Tensor, residuals: Tensor, epsilon: float) -> Tensor:
    jitter = epsilon * kernel.diagonal().mean()
    least = torch.linalg.eigvalsh(kernel)[0]
    return torch.cat([adjusted_complexity(kernel, residuals, epsilon=epsilon), torch.stack([jitter, least])])


def _check(images: int, temperatures: tuple[float, ...], epsilon: float) -> None:
    if images > MAX_IMAGES:
        raise ConfigError(f"images is {images}, at most {MAX_IMAGES} fit into one kernel")
    if not all(temperature > 0 for temperature in temperatures):
        raise ConfigError(f"temperatures are {list(temperatures)}, each must be above 0")
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise ConfigError(f"epsilon is {epsilon}, it must not be negative")


def _require_full_rank(network: nn.Module, *, images: int) -> None:
    count = sum(parameter.numel() for parameter in network.parameters())
    if images > count:
        raise ConfigError(
            f"a kernel of {images} images has rank at most {count}, the student's parameters: lower images"
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
