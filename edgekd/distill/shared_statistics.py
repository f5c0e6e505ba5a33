"""Batch statistics over all processes: a batch norm sees the batch that one process would see."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.distill.ranks import Ranks, gathered, summed
from edgekd.distill.settings import TrainSettings
from edgekd.distill.stage import Stage

# Torch's advice on the layout of gradients, which is chosen for the passes of the network.
_KNOWN = "Grad strides do not match bucket view strides"


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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_KNOWN)
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
    count = inputs.numel() // inputs.shape[1] * processes
    moments = _shared_moments(inputs.detach(), count, norm.eps)
    _follow(norm, moments.mean, moments.variance * (count / max(1, count - 1)))
    outputs: Tensor = _Normalised.apply(inputs, norm.weight, norm.bias, moments)  # type: ignore[no-untyped-call]
    return outputs


class _Moments(NamedTuple):
    """What a batch is normalised by: mean and variance `[C]` over `size` numbers of each channel, those of all."""

    mean: Tensor
    variance: Tensor
    size: int
    eps: float


def _shared_moments(inputs: Tensor, count: int, eps: float) -> _Moments:
    """Put together the moments of all processes from those of each, which one message carries."""
    if not inputs.is_cuda:  # A GPU counts in 32 bits; a CPU rounds to 16 where the inputs do.
        inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    own = torch.stack(torch.batch_norm_update_stats(inputs, None, None, 0.0))
    means, variances = gathered(own[None]).unbind(dim=1)
    mean = means.mean(dim=0)
    return _Moments(mean, variances.mean(dim=0) + (means - mean).square().mean(dim=0), count, eps)


class _Normalised(torch.autograd.Function):
    """Normalise by moments that depend on the inputs of all processes; the gradient knows that they do.

    As many passes over memory as a batch norm of one process makes, and one more on the way back.
    """

    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, moments: _Moments) -> Tensor:
        context.save_for_backward(inputs, weight)
        context.moments = moments
        return functional.batch_norm(inputs, moments.mean, moments.variance, weight, bias, eps=moments.eps)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = context.saved_tensors
        find = _differentiable_gradients if torch.is_grad_enabled() else _gradients
        of_inputs, *of_affine = find(inputs, weight, gradient, context.moments)
        return of_inputs, *([None, None] if weight is None else of_affine), None


def _gradients(
    inputs: Tensor, weight: Tensor | None, gradient: Tensor, moments: _Moments
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of inputs, weight and bias, of which the last two are this process's own."""
    mean, variance, size, eps = moments
    deviation = torch.rsqrt(variance + eps)
    scale = deviation if weight is None else deviation * weight
    _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
        gradient, inputs, scale, None, None, mean, deviation, True, eps, [False, True, True]
    )
    # Of so few numbers gloo is sooner done gathering than reducing.
    mean_of_bias, mean_of_weight = gathered(torch.stack([of_bias, of_weight])[None]).sum(dim=0) / size
    slope = -scale * deviation * mean_of_weight
    centred = functional.batch_norm(
        gradient.to(mean.dtype), mean_of_bias, torch.ones_like(mean), scale, -slope * mean, eps=0.0
    )
    return centred.addcmul_(inputs, _along(slope, inputs)).to(inputs.dtype), of_weight, of_bias


def _differentiable_gradients(
    inputs: Tensor, weight: Tensor | None, gradient: Tensor, moments: _Moments
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_gradients` does, in a graph to inputs, weight and gradient, in which moments are found anew."""
    axes = [0, *range(2, inputs.dim())]
    values, slopes = inputs.to(moments.mean.dtype), gradient.to(moments.mean.dtype)
    centred = values - _along(summed(values.sum(dim=axes)) / moments.size, inputs)
    deviation = torch.rsqrt(summed(centred.square().sum(dim=axes)) / moments.size + moments.eps)
    normal = centred * _along(deviation, inputs)
    of_weight, of_bias = (slopes * normal).sum(dim=axes), slopes.sum(dim=axes)
    mean_of_bias, mean_of_weight = summed(torch.stack([of_bias, of_weight])) / moments.size
    remainder = slopes - _along(mean_of_bias, inputs) - normal * _along(mean_of_weight, inputs)
    scale = deviation if weight is None else deviation * weight
    return (remainder * _along(scale, inputs)).to(inputs.dtype), of_weight, of_bias


def _along(channels: Tensor, inputs: Tensor) -> Tensor:
    return channels.view(1, -1, *[1] * (inputs.dim() - 2))


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
