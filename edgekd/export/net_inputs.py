"""What an exported network is given: a check of real inputs, and random ones to compare on."""

from __future__ import annotations

import numpy as np

from edgekd.core.artifacts import OnnxModel
from edgekd.data import NetInputs


def random_inputs(model: OnnxModel, count: int, *, seed: int) -> NetInputs:
    """Draw inputs of the form that a model takes.

    Args:
        model: The model.
        count: How many.
        seed: Decides them.

    Returns:
        Pictures float32 `[count, C, H, W]` in 0..1; or texts int64 `[count, L]` of random length and tokens.
    """
    rng = np.random.default_rng(seed)
    if not model.vocabulary:
        return rng.random((count, *model.input_shape), dtype=np.float32)
    tokens = rng.integers(1, model.vocabulary, (count, *model.input_shape), np.int64)
    lengths = rng.integers(1, model.input_shape[0] + 1, (count, 1))
    return np.where(np.arange(model.input_shape[0]) < lengths, tokens, 0)


def input_problem(inputs: NetInputs, model: OnnxModel) -> str:
    """Say in words why a model cannot be given these inputs; empty when it can."""
    dtype = "int64" if model.vocabulary else "float32"
    shape = ", ".join(map(str, model.input_shape))
    if inputs.dtype != dtype or inputs.shape[1:] != model.input_shape or not len(inputs):
        return f"the network takes {dtype} [n, {shape}], got {inputs.dtype} {list(inputs.shape)}"
    if model.vocabulary and not (inputs.min() >= 0 and inputs.max() < model.vocabulary):
        return f"tokens run from {inputs.min()} to {inputs.max()}, the network knows 0..{model.vocabulary - 1}"
    if not np.isfinite(inputs).all():
        return f"{int((~np.isfinite(inputs)).sum())} of {inputs.size} values are NaN or infinite"
    return ""
