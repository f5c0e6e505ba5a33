"""Whether the student looks where the teacher looks: Grad-CAM maps compared by their cosine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import DataError
from edgekd.data import Split
from edgekd.distill.probes.answers import BATCH_SIZE, captured, device_of, map_from_end
from edgekd.distill.probes.pictures import Pictures, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, network_of
from edgekd.models import evaluating


def grad_cam(network: nn.Module, inputs: Tensor, labels: Tensor, path: str) -> Tensor:
    """Return `relu(sum_c a_c A_c)`, `a_c` being the mean over positions of the gradient of the label's logit.

    Args:
        network: `[B, C, H, W]` to logits `[B, K]`; it runs in evaluation mode and is left as it was.
        inputs: `[N, C, H, W]`.
        labels: int64 `[N]`, the class each map is for.
        path: Module whose output `A` is a map `[B, c, h, w]`.

    Returns:
        `[N, h, w]`, never negative.

    Reference:
        Selvaraju et al. 2017, arXiv 1610.02391.
    """
    device = device_of(network)
    maps = []
    with evaluating(network), torch.enable_grad():
        for part, wanted in zip(torch.split(inputs, BATCH_SIZE), torch.split(labels, BATCH_SIZE), strict=True):
            with captured(network, [path]) as seen:
                # a leaf that needs gradients keeps the graph alive where every parameter is frozen
                logits = network(part.to(device).requires_grad_())
            chosen = logits.gather(1, wanted.to(device).unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(chosen, seen[path])
            weights = gradient.mean(dim=(2, 3), keepdim=True)
            maps.append((weights * seen[path]).sum(dim=1).relu().detach().float().cpu())
    return torch.cat(maps)


def localisation(models: Models, split: Split, *, layer: int = 1, images: int = 5000, seed: int = 0) -> Figures:
    """On how many pictures the student's Grad-CAM is nearer to the teacher's than an independent student's is.

    Pictures on which the teacher's map is zero everywhere show nothing to follow and are left out.

    Args:
        models: Roles `teacher`, `student`, `independent`.
        split: Where pictures are drawn from.
        layer: Which feature map, counted from the last, which is 1.
        images: How many pictures at most.
        seed: Decides which.

    Returns:
        `win_rate`: share of pictures where `cos(CAM_t, CAM_student) > cos(CAM_t, CAM_independent)`, ties counted half;
        `cosine` and `independent.cosine`: means; `images`: how many were compared.

    Raises:
        ConfigError: A role is missing, or there is no such map.
        DataError: The teacher's map is zero on every picture.

    Reference:
        Ojha et al. 2023, arXiv 2205.16004. Maps of different size are resized to the larger: not said there.
    """
    pictures = draw(split, images=images, seed=seed)
    teacher, student, independent = (
        _maps(network_of(models, role), pictures, layer) for role in ("teacher", "student", "independent")
    )
    is_shown = teacher.flatten(1).amax(dim=1) > 0
    if not bool(is_shown.any()):
        raise DataError("the teacher's Grad-CAM is zero on every picture: choose an earlier map with layer=2")
    mine, theirs = (_cosines(teacher, other)[is_shown] for other in (student, independent))
    return {
        "win_rate": win_rate(mine, theirs),
        "cosine": mine.mean().item(),
        "independent.cosine": theirs.mean().item(),
        "chance.win_rate": 0.5,
        "images": float(is_shown.sum()),
    }


def win_rate(mine: Tensor, theirs: Tensor) -> float:
    """Return the share of entries of `[N]` where `mine` is larger, ties counted half."""
    return ((mine > theirs).double() + 0.5 * (mine == theirs).double()).mean().item()


def _maps(network: nn.Module, pictures: Pictures, layer: int) -> Tensor:
    inputs = pictures.inputs
    return grad_cam(network, inputs, pictures.labels, map_from_end(network, tuple(inputs.shape[1:]), layer).path)


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    size = (max(left.shape[1], right.shape[1]), max(left.shape[2], right.shape[2]))
    return F.cosine_similarity(_resized(left, size), _resized(right, size), dim=1)


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return float64 `[N, H * W]`; maps of that size already keep their values exactly."""
    wide = maps.double().unsqueeze(1)
    if tuple(wide.shape[2:]) != size:
        wide = F.interpolate(wide, size=size, mode="bilinear", align_corners=False)
    return wide.flatten(1)


PROBES.add(
    "localisation",
    Probe(
        localisation,
        title="Share of pictures where the student's Grad-CAM is nearer to the teacher's than an independent student's",
        reference="Ojha et al. 2023, arXiv 2205.16004",
        chance="win_rate 0.5",
        extreme={"win_rate": 1.0, "cosine": 1.0},
        needs=("teacher", "student", "independent"),
        uses=(),
    ),
)
