"""Inputs between inputs: convex mixes of pairs, which nobody has labelled but a teacher answers to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mixes_of(inputs: Tensor, count: int, *, alpha: float, rng: np.random.Generator) -> Tensor:
    """Return `l x_i + (1 - l) x_j` for random pairs of different rows, `l` from Beta(alpha, alpha).

    Args:
        inputs: Floats `[B, ...]`; of a single row the mixes are copies.
        count: How many mixes.
        alpha: 1 draws `l` evenly from 0..1; less prefers mixes close to one of the two.
        rng: The only source of chance.

    Returns:
        `[count, ...]`.
    """
    rows = len(inputs)
    first = rng.integers(rows, size=count)
    second = (first + 1 + rng.integers(max(1, rows - 1), size=count)) % rows
    share = torch.from_numpy(rng.beta(alpha, alpha, size=count)).to(inputs)
    share = share.view(-1, *[1] * (inputs.dim() - 1))
    one, other = (inputs[torch.from_numpy(chosen).to(inputs.device)] for chosen in (first, second))
    return share * one + (1 - share) * other
