"""Starting points between random weights and a teacher's, to see how far optimisation is to blame for low fidelity."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.core.errors import ConfigError
from edgekd.distill.probes.answers import device_of


def interpolated(teacher: nn.Module, random: nn.Module, *, share: float) -> nn.Module:
    """Return a network with parameters `share * random + (1 - share) * teacher`.

    Buffers are the teacher's: `with_new_statistics` makes those of batch normalisation fit.

    Args:
        teacher: A trained network.
        random: A network of the same architecture.
        share: `lambda`, 0 (the teacher) to 1 (the random network).

    Raises:
        ConfigError: A share outside 0..1, or networks of different architectures.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}, it must be between 0 and 1")
    mine, theirs = ({name: value.shape for name, value in net.named_parameters()} for net in (random, teacher))
    if mine != theirs:
        raise ConfigError("weights can be interpolated between networks of one architecture only; these two differ")
    between = copy.deepcopy(teacher)
    others = dict(random.named_parameters())
    with torch.no_grad():
        for name, value in between.named_parameters():
            value.mul_(1 - share).add_(others[name].to(value.device), alpha=share)
    return between


def with_new_statistics(network: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a copy in evaluation mode whose batch normalisation statistics are means over one pass.

    Args:
        network: The network; only its batch normalisation runs in training mode.
        batches: Inputs `[B, C, H, W]`, each batch of at least two.

    Reference:
        Stanton et al. 2021, arXiv 2106.05945.
    """
    fresh = copy.deepcopy(network).eval()
    layers = [module for module in fresh.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches, each weighing the same
        layer.train()
    device = device_of(fresh)
    with torch.no_grad():
        for batch in batches:
            fresh(batch.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return fresh.eval()
