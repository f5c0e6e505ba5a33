"""How the learning rate moves over a stage."""

from __future__ import annotations

import math

from edgekd.distill.settings import TrainSettings


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
    if settings.schedule == "wsd":
        return settings.lr * _above(settings.lr_floor, min(1.0, (1 - progress) / settings.decay))
    after = (progress - settings.warmup) / (1 - settings.warmup)
    return settings.lr * _above(settings.lr_floor, 0.5 * (1 + math.cos(math.pi * after)))


def _above(floor: float, share: float) -> float:
    return floor + (1 - floor) * share
