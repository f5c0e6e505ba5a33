"""Whether two networks divide the space between pictures alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.core.errors import ConfigError, DataError
from edgekd.data import Split
from edgekd.distill.probes.answers import decisions
from edgekd.distill.probes.pictures import chance_of, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of

_MARGIN = 0.5


def plane_through(corners: Tensor, *, side: int, margin: float = _MARGIN) -> Tensor:
    """Return a grid of points of the plane through three pictures.

    The plane is spanned by orthonormal directions: from the first picture to the second, and from there to the third
    across it. The grid covers the rectangle around the three in these, widened by `margin` of its size on every side.

    Args:
        corners: `[3, C, H, W]`.
        side: Points along each direction.
        margin: Share of the rectangle's sides added on every side.

    Returns:
        `[side * side, C, H, W]`, not clipped to 0..1.

    Raises:
        DataError: The three lie on one line.
    """
    origin, second, third = corners.flatten(1).double()
    along = second - origin
    length = along.norm()
    across = (third - origin) - ((third - origin) @ along) / length.square().clamp(min=1e-300) * along
    if not length > 0 or not across.norm() > 1e-6 * length:
        raise DataError("three pictures lie on one line, so no plane goes through them: choose another seed")
    one, other = along / length, across / across.norm()
    spots = torch.stack([(corners.flatten(1).double() - origin) @ direction for direction in (one, other)])
    low, high = spots.amin(dim=1), spots.amax(dim=1)
    steps = torch.linspace(-margin, 1 + margin, side, dtype=torch.float64)
    first, second_axis = (low[axis] + steps * (high[axis] - low[axis]) for axis in range(2))
    points: Tensor = origin + first.view(-1, 1, 1) * one + second_axis.view(1, -1, 1) * other
    return points.view(side * side, *corners.shape[1:]).float()


def label_map_iou(one: Tensor, other: Tensor) -> float:
    """Return the intersection over union of two label maps, averaged over the classes that occur in either.

    Args:
        one: int64 `[N]`.
        other: int64 `[N]`.
    """
    classes = torch.unique(torch.cat([one, other]))
    mine, theirs = (labels.unsqueeze(0) == classes.unsqueeze(1) for labels in (one, other))
    shares: Tensor = (mine & theirs).sum(dim=1).double() / (mine | theirs).sum(dim=1)
    return shares.mean().item()


def boundary(models: Models, split: Split, *, triplets: int = 50, side: int = 20, seed: int = 0) -> Figures:
    """How alike teacher and student divide planes through three random pictures.

    Args:
        models: Roles `teacher`, `student`, and `independent` where given.
        split: Where pictures are drawn from.
        triplets: Planes.
        side: Points along each direction of a plane.
        seed: Decides the triplets, the same for every network.

    Returns:
        For each student, averaged over planes: `iou` of the two label maps, and `same_label`, the share of points
        given the same class.

    Raises:
        ConfigError: An option out of range.
        DataError: Fewer than three pictures, or three on one line.

    Reference:
        Ojha et al. 2023, arXiv 2205.16004. Reconstruction: extent of the plane, and the mean over classes in the IoU.
    """
    if triplets < 1 or side < 2:
        raise ConfigError(f"triplets is {triplets}, it must be at least 1; side is {side}, at least 2")
    planes = _planes(split, triplets=triplets, side=side, seed=seed)
    teacher = network_of(models, "teacher")
    expected = [decisions(teacher, plane) for plane in planes]

    def measure(network: nn.Module) -> Figures:
        maps = [decisions(network, plane) for plane in planes]
        pairs = list(zip(maps, expected, strict=True))
        return {
            "iou": sum(label_map_iou(mine, theirs) for mine, theirs in pairs) / len(pairs),
            "same_label": sum((mine == theirs).double().mean().item() for mine, theirs in pairs) / len(pairs),
        }

    return by_role(models, measure)


def _planes(split: Split, *, triplets: int, side: int, seed: int) -> list[Tensor]:
    if len(split) < 3:
        raise DataError(f"the split holds {len(split)} pictures, a plane goes through three")
    rng = chance_of(seed, "boundary")
    inputs = draw(split, images=3 * triplets, seed=seed).inputs
    chosen = [np.sort(rng.choice(len(inputs), size=3, replace=False)) for _ in range(triplets)]
    return [plane_through(inputs[torch.from_numpy(rows)], side=side) for rows in chosen]


PROBES.add(
    "boundary",
    Probe(
        boundary,
        title="IoU of the label maps of teacher and student on planes through three pictures",
        reference="Ojha et al. 2023, arXiv 2205.16004; extent of the plane and mean over classes are a reconstruction",
        chance="the independent student's figures",
        extreme={"iou": 1.0, "same_label": 1.0},
        reads_labels=False,
    ),
)
