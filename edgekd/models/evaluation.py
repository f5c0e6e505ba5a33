"""Run a network once, as it runs when deployed, and leave no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


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
        input_shape: `(C, H, W)`, or `(L,)` of tokens.
        batch: Number of inputs.
    """
    with evaluating(module):
        output: object = module(zeros_for(module, input_shape, batch=batch))
    return output


def zeros_for(module: nn.Module, input_shape: tuple[int, ...], *, batch: int) -> Tensor:
    """Return a batch of zeros that a module takes: int64 where it embeds tokens `(L,)`, else in its own dtype."""
    like = next((part for part in chain(module.parameters(), module.buffers()) if part.is_floating_point()), None)
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    zeros = torch.zeros(batch, *input_shape, dtype=dtype, device=device)
    return zeros.long() if takes_tokens(module, input_shape) else zeros


def takes_tokens(module: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Say whether inputs of a shape are token numbers to a module: it has a table of tokens and they are sequences."""
    return len(input_shape) == 1 and any(isinstance(part, nn.Embedding) for part in module.modules())
