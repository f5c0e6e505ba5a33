"""How long and how fast to train: everything a run decides that a recipe does not."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgekd.core.config import StrictModel


class TrainSettings(StrictModel):
    """Optimisation settings of a run. A recipe's stages scale `epochs` and `lr`.

    The defaults of momentum, weight decay and milestones are those of the CIFAR-100 protocol that most of the
    distillation literature shares (240 epochs, decays at 150, 180, 210).
    """

    epochs: int = Field(30, ge=1, description="Epochs of a stage of length 1.")
    batch_size: int = Field(64, ge=2, description="Samples in one step.")
    lr: float = Field(0.05, gt=0, description="Peak learning rate of a stage of scale 1.")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd; adamw keeps its usual 0.9 and 0.999.")
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["multistep", "cosine", "constant"] = "cosine"
    milestones: tuple[float, ...] = Field(
        (0.625, 0.75, 0.875), description="Shares of a stage where multistep decays by 10."
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of a stage in which the learning rate rises linearly.")
    augment: str = Field("auto", description="Augmentation by name; auto takes the data set's.")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision of the forward pass.")
    max_grad_norm: float | None = Field(None, gt=0)
    select: Literal["best", "last"] = Field("best", description="Which epoch to keep, judged on the held-out split.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    resident: bool = Field(False, description="Keep the training pictures on the device and change them there.")
    channels_last: bool = Field(False, description="Lay maps out channel by channel last, as tensor cores want them.")
    compile: Literal["no", "default", "reduce-overhead", "max-autotune"] = Field(
        "no", description="Compile the networks' training passes, in this mode of torch.compile."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; one for small networks, else all, by default.")


def learning_rate(settings: TrainSettings, milestones: tuple[float, ...], progress: float) -> float:
    """Return the learning rate at a point of a stage.

    Args:
        settings: The run's settings.
        milestones: Shares of the stage where `multistep` decays by 10.
        progress: Share of the stage's steps already taken, in [0, 1).

    Returns:
        The rate, before a stage's own scale.
    """
    if progress < settings.warmup:
        return settings.lr * (progress / settings.warmup)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "multistep":
        return settings.lr * 0.1 ** sum(progress >= milestone for milestone in milestones)
    after = (progress - settings.warmup) / (1 - settings.warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * after))
