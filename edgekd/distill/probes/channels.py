"""Whether a class excites the same channels in teacher and student."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.data import Split
from edgekd.distill.probes.answers import features_on, map_from_end
from edgekd.distill.probes.pictures import Pictures, draw
from edgekd.distill.probes.probe import PROBES, Figures, Models, Probe, by_role, network_of

_DEFAULT_SHARE = 4
_MOST_BY_DEFAULT = 10


def class_activations(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of maps `[N, C, H, W]` over positions and over the pictures of each class: `[classes, C]`."""
    pooled = features.mean(dim=(2, 3)).double()
    return torch.stack([pooled[labels == label].mean(dim=0) for label in torch.unique(labels)])


def top_channel_overlap(student: Tensor, teacher: Tensor, *, k: int) -> float:
    """Return the share of the `k` most active channels that two networks have in common, averaged over classes.

    Args:
        student: Mean activations `[classes, C_s]`.
        teacher: Mean activations `[classes, C_t]`; channels are compared by number.
        k: Channels of each class.
    """
    mine, theirs = (activations.topk(k, dim=1).indices for activations in (student, teacher))
    return (mine.unsqueeze(2) == theirs.unsqueeze(1)).any(dim=2).double().mean().item()


def matching_channels(student: Tensor, teacher: Tensor) -> NDArray[np.int64]:
    """Give every student channel its own teacher channel, for the largest sum of correlations over pictures.

    Args:
        student: Pooled activations `[N, C_s]`.
        teacher: Pooled activations `[N, C_t]`, `C_t >= C_s`.

    Returns:
        int64 `[C_s]`: the teacher's channel for each of the student's. A channel that does not vary correlates 0.

    Reference:
        Han et al. 2021, arXiv 2103.16844; the assignment is a reconstruction.
    """
    from scipy.optimize import linear_sum_assignment

    mine, theirs = (_standardised(activations.double()) for activations in (student, teacher))
    _, columns = linear_sum_assignment((mine.T @ theirs).numpy(), maximize=True)
    return np.asarray(columns, dtype=np.int64)


def channels(
    models: Models, split: Split, *, k: int | None = None, layer: int = 1, images: int = 2000, seed: int = 0
) -> Figures:
    """Whether a class excites the same channels in teacher and student at the last map.

    By number, channels of differently initialised networks overlap by chance; matched by correlation (found on every
    second picture, counted on the others) they may correspond all the same.

    Args:
        models: Roles `teacher`, `student`, and `independent` where given.
        split: Where pictures are drawn from.
        k: How many channels of each class; a quarter of the narrower map's, at most 10 (the paper's), by default.
        layer: Which feature map, counted from the last, which is 1.
        images: How many pictures at most.
        seed: Decides which.

    Returns:
        For each student `overlap` by number, with `chance.overlap = k / max(C_s, C_t)` of random channels, and, where
        the teacher is not narrower, `matched_overlap`, with `chance.matched_overlap = k / C_s`.

    Raises:
        ConfigError: `k` is not between 1 and the narrower map's channels, or there is no such map.

    Reference:
        Han et al. 2021, arXiv 2103.16844; how activity is measured is a reconstruction.
    """
    pictures = draw(split, images=images, seed=seed)
    student, teacher = (_map_of(network_of(models, role), pictures, layer) for role in ("student", "teacher"))
    narrow, wide = sorted((student.shape[1], teacher.shape[1]))
    count = min(_MOST_BY_DEFAULT, max(1, narrow // _DEFAULT_SHARE)) if k is None else k
    if not 1 <= count <= narrow:
        raise ConfigError(f"k is {count}, the narrower map has {narrow} channels")

    def measure(network: nn.Module) -> Figures:
        return _channel_overlaps(_map_of(network, pictures, layer), teacher, pictures.labels, count)

    chance = {"chance.overlap": count / wide}
    if student.shape[1] == narrow:
        chance["chance.matched_overlap"] = count / narrow
    return by_role(models, measure) | chance


def _channel_overlaps(student: Tensor, teacher: Tensor, labels: Tensor, k: int) -> Figures:
    mine, theirs = (class_activations(features, labels) for features in (student, teacher))
    figures = {"overlap": top_channel_overlap(mine, theirs, k=k)}
    if teacher.shape[1] >= student.shape[1]:
        matched = matching_channels(student[::2].mean(dim=(2, 3)), teacher[::2].mean(dim=(2, 3)))
        held_out, counted = labels[1::2], teacher[1::2][:, torch.from_numpy(matched)]
        mine, theirs = (class_activations(features, held_out) for features in (student[1::2], counted))
        figures["matched_overlap"] = top_channel_overlap(mine, theirs, k=k)
    return figures


def _map_of(network: nn.Module, pictures: Pictures, layer: int) -> Tensor:
    inputs = pictures.inputs
    path = map_from_end(network, tuple(inputs.shape[1:]), layer).path
    return features_on(network, inputs, [path])[path]


def _standardised(columns: Tensor) -> Tensor:
    centred = columns - columns.mean(dim=0)
    lengths = centred.norm(dim=0)
    return torch.where(lengths > 0, centred / lengths.where(lengths > 0, 1.0), 0.0)


PROBES.add(
    "channels",
    Probe(
        channels,
        title="Share of the most active channels of each class that teacher and student have in common",
        reference="Han et al. 2021, arXiv 2103.16844 (reconstruction)",
        chance="k / max(C_s, C_t) by number, k / C_s matched; next to it the independent student's figures",
        extreme={"overlap": 1.0, "matched_overlap": 1.0},
    ),
)
