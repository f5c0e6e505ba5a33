"""How alike the features of two networks are, layer against layer, whatever their widths."""

from __future__ import annotations

from typing import Literal

import torch
from edgekd_kernels import functional as K
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Split
from edgekd.distill.probes.answers import features_on, stage_ends
from edgekd.distill.probes.pictures import draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of
from edgekd.models import pair_taps

_LEAST_IMAGES = 3


def rbf_cka(left: Tensor, right: Tensor, *, bandwidth: float = 1.0) -> float:
    """Return the centred kernel alignment of Gaussian kernels, `<HKH, HLH> / (||HKH|| ||HLH||)`.

    `K_ij = exp(-||x_i - x_j||^2 / (2 s^2))`, `s` being `bandwidth` times the median distance between different rows.

    Args:
        left: Features `[N, ...]`.
        right: Features `[N, ...]` of the same pictures; its width may differ.
        bandwidth: Multiple of the median distance, above 0.

    Returns:
        0..1: 1 for features equal up to rotation, shift and scale; 0 where either side does not vary.

    Reference:
        arXiv 1905.00414; kernel on pre-activations in arXiv 2106.05945, here on the outputs of stages.
    """
    one, other = (_centred(_gaussian(features.flatten(1).double(), bandwidth)) for features in (left, right))
    norms = (one.square().sum() * other.square().sum()).sqrt()
    return ((one * other).sum() / norms).item() if norms > 0 else 0.0


def cka(
    models: Models,
    split: Split,
    *,
    kernel: Literal["linear", "rbf"] = "linear",
    bandwidth: float = 1.0,
    images: int = 100,
    seed: int = 0,
) -> Figures:
    """Centred kernel alignment of every stage end of the teacher with every stage end of a student.

    Args:
        models: Roles `teacher`, `student`, and `independent` where given.
        split: Where pictures are drawn from.
        kernel: `linear` (the paper's grid) or `rbf`.
        bandwidth: Of the Gaussian kernel, in median distances.
        images: How many pictures, at least 3. The estimate is biased upwards where features are wider than that: only
            the difference from the independent student can be read.
        seed: Decides which.

    Returns:
        `TEACHER MODULE x STUDENT MODULE` for the whole grid, and `matched`: the mean over stage ends of equal
        resolution (left out where there are none).

    Raises:
        ConfigError: An option out of range, or a network without features.

    Reference:
        Ojha et al. 2023, arXiv 2205.16004 (linear, 100 images); Stanton et al. 2021, arXiv 2106.05945 (RBF).
    """
    if images < _LEAST_IMAGES or not bandwidth > 0:
        raise ConfigError(f"images is {images}, at least {_LEAST_IMAGES}; bandwidth is {bandwidth}, above 0")
    pictures = draw(split, images=images, seed=seed)
    inputs, shape = pictures.inputs, tuple(pictures.inputs.shape[1:])
    teacher = network_of(models, "teacher")
    theirs = stage_ends(teacher, shape)
    expected = features_on(teacher, inputs, [tap.path for tap in theirs])

    def measure(network: nn.Module) -> Figures:
        mine = stage_ends(network, shape)
        found = features_on(network, inputs, [tap.path for tap in mine])
        grid = {
            f"{path} x {other}": _alignment(found[other], expected[path], kernel, bandwidth)
            for path in expected
            for other in found
        }
        matched = [grid[f"{to.path} x {on.path}"] for on, to in pair_taps(mine, theirs)]
        return grid | ({"matched": sum(matched) / len(matched)} if matched else {})

    return by_role(models, measure)


def _alignment(student: Tensor, teacher: Tensor, kernel: str, bandwidth: float) -> float:
    if kernel == "rbf":
        return rbf_cka(student, teacher, bandwidth=bandwidth)
    return K.linear_cka(student.double(), teacher.double()).mean().item()


def _gaussian(rows: Tensor, bandwidth: float) -> Tensor:
    squares = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    between = squares[~torch.eye(len(rows), dtype=torch.bool)]
    scale = 2 * bandwidth**2 * between.median()
    return torch.exp(-squares / scale) if scale > 0 else torch.ones_like(squares)


def _centred(kernel: Tensor) -> Tensor:
    return kernel - kernel.mean(dim=0, keepdim=True) - kernel.mean(dim=1, keepdim=True) + kernel.mean()


PROBES.add(
    "cka",
    Probe(
        cka,
        title="CKA of teacher stages with student stages: how alike features are",
        reference="Ojha et al. 2023, arXiv 2205.16004; RBF option: Stanton et al. 2021, arXiv 2106.05945",
        chance="the independent student's figures; far above 0, as all networks see the same pictures",
        extreme={"matched": 1.0},
        reads_labels=False,
    ),
)
