"""Batch statistics over all processes: a batch norm sees the batch that one process would see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.distill.ranks import Ranks, summed
from edgekd.distill.settings import TrainSettings
from edgekd.distill.stage import Stage


@contextmanager
def ranked(stage: Stage, ranks: Ranks, settings: TrainSettings) -> Iterator[None]:
    """Let a stage's learners work with those of other processes within the block; alone, nothing changes."""
    if ranks.is_alone:
        yield
        return
    norms = [module for module in stage.learners.modules() if isinstance(module, _BatchNorm)]
    if not settings.sync_batch_norm:
        norms = []
    for norm in norms:
        norm.forward = partial(shared_batch_norm, norm, own=norm.forward, processes=ranks.of)  # type: ignore[method-assign]
    for learner in stage.learners:
        learner.ranks = ranks
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
        for learner in stage.learners:
            learner.ranks = Ranks()


def shared_batch_norm(norm: _BatchNorm, inputs: Tensor, *, own: Callable[[Tensor], Tensor], processes: int) -> Tensor:
    """Normalise by mean and variance over the rows of all processes, each of which has as many.

    Args:
        norm: The layer; its running statistics follow.
        inputs: `[B, C, ...]`.
        own: How the layer normalises alone, which it does outside of training.
        processes: How many there are.
    """
    if not norm.training:
        return own(inputs)
    axes = [0, *range(2, inputs.dim())]
    count = inputs.numel() // inputs.shape[1] * processes
    values = inputs.float()
    mean = summed(values.sum(dim=axes)) / count
    centred = values - mean.view(_shape(inputs))
    variance = summed(centred.square().sum(dim=axes)) / count
    _follow(norm, mean.detach(), variance.detach() * (count / max(1, count - 1)))
    normal = centred * torch.rsqrt(variance + norm.eps).view(_shape(inputs))
    if norm.affine:
        normal = normal * norm.weight.view(_shape(inputs)) + norm.bias.view(_shape(inputs))
    return normal.to(inputs.dtype)


def _shape(inputs: Tensor) -> tuple[int, ...]:
    return (1, -1, *[1] * (inputs.dim() - 2))


@torch.no_grad()
def _follow(norm: nn.Module, mean: Tensor, variance: Tensor) -> None:
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return
    share = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if share is None:
            share = 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share or 0.0)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share or 0.0)
