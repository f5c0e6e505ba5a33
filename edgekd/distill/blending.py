"""Mixup and cutmix: batches whose inputs are made of two, with both labels.

Teacher and student see the same mixed inputs, so that what they say of them can be compared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.data import Batch, Blend
from edgekd.distill.recipe import Recipe
from edgekd.distill.requirements import label_readers
from edgekd.distill.settings import TrainSettings
from edgekd.distill.step import Step
from edgekd.distill.terms.labelled import safe_labels


def require_blendable(recipe: Recipe, settings: TrainSettings) -> None:
    """Refuse mixed inputs where a part of a recipe cannot make use of them.

    Raises:
        ConfigError: A part reads labels as single classes, or a stage changes batches itself.
    """
    if not settings.mixup and not settings.cutmix:
        return
    views = {view.type for stage in recipe.stages for view in stage.views} - {"identity"}
    if views:
        raise ConfigError(
            f"recipe {recipe.name!r} changes batches itself ({', '.join(sorted(views))}): leave train.mixup and "
            "train.cutmix at 0"
        )
    for reader in label_readers(recipe, but="takes_blends"):
        raise ConfigError(
            f"{reader} reads one class of each input, mixed inputs have two: leave train.mixup and train.cutmix at 0, "
            "or take a recipe without it"
        )


def blended(batch: Batch, step: Step, settings: TrainSettings) -> Batch:
    """Return a batch whose inputs are mixed with each other, all in one proportion, drawn from Beta(alpha, alpha).

    Args:
        batch: Pictures of one class each.
        step: Decides the draws.
        settings: Alphas of mixup and cutmix; where both are on, a coin decides for the batch.

    Raises:
        ConfigError: Inputs are no pictures, or labels are not one class an input.

    Reference:
        Zhang et al. 2018, arXiv 1710.09412; Yun et al. 2019, arXiv 1905.04899.
    """
    if batch.inputs.dim() != 4 or batch.labels.dim() != 1:
        raise ConfigError("mixup and cutmix need pictures of one class each: leave train.mixup and train.cutmix at 0")
    rng = np.random.default_rng(step.generator("blend").initial_seed())
    is_cut = bool(settings.cutmix) and (not settings.mixup or rng.random() < 0.5)
    alpha = settings.cutmix if is_cut else settings.mixup
    share = float(rng.beta(alpha, alpha))
    other = torch.from_numpy(rng.permutation(len(batch))).to(batch.inputs.device)
    if is_cut:
        inputs, share = _cut(batch.inputs, batch.inputs[other], share, rng)
    else:
        inputs = share * batch.inputs + (1 - share) * batch.inputs[other]
    shares = torch.full((len(batch),), share, dtype=torch.float32, device=batch.inputs.device)
    is_labelled = batch.is_labelled & batch.is_labelled[other]
    ids = torch.full_like(batch.ids, -1)
    blend = Blend(safe_labels(batch)[other], shares)
    return replace(batch, inputs=inputs, ids=ids, is_labelled=is_labelled, blend=blend)


def _cut(own: Tensor, other: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Put a box of the other pictures into the own ones; returns the pictures and the share that stays."""
    height, width = own.shape[2:]
    tall, wide = (round(size * (1 - share) ** 0.5) for size in (height, width))
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    pictures = own.clone()
    pictures[:, :, top : top + tall, left : left + wide] = other[:, :, top : top + tall, left : left + wide]
    return pictures, 1 - tall * wide / (height * width)
