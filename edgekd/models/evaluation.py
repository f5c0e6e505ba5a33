"""Run a network once, as it runs when deployed, and leave no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Hold a module in evaluation mode without gradients; every submodule gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, is_training in modes:
            part.training = is_training


def run_on_zeros(module: nn.Module, input_shape: tuple[int, ...], *, batch: int) -> object:
    """Return what a module makes of a batch of zeros, on its own device and in its own dtype.

    Args:
        module: Any network with one input.
        input_shape: `(C, H, W)`.
        batch: Number of inputs.
    """
    like = next((part for part in chain(module.parameters(), module.buffers()) if part.is_floating_point()), None)
    inputs = torch.zeros(batch, *input_shape) if like is None else like.new_zeros((batch, *input_shape))
    with evaluating(module):
        output: object = module(inputs)
    return output
