"""Size of a network in parameters and in multiply-accumulate operations."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgekd.models.evaluation import run_on_zeros

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def count_params(module: nn.Module) -> int:
    """Count the parameters of a module, shared ones once, buffers not at all."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Count the multiply-accumulates of one input in convolutions, transposed ones, `nn.Linear`, RNN, GRU and LSTM.

    Biases, normalisation, activations, pools and products outside those modules (attention scores) are not counted.

    Args:
        module: Any network with one input, in the form to be counted (`deploy` it first for its deployed cost).
        input_shape: `(C, H, W)`, or `(L,)` of tokens.

    Returns:
        MACs of a forward pass at batch 1; a module that runs twice counts twice.
    """
    macs: list[int] = []

    def count(layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(layer, nn.Linear):
            macs.append(output.numel() * layer.in_features)
        elif isinstance(layer, _CONVOLUTIONS):
            macs.append(output.numel() * layer.weight[0].numel())
        elif isinstance(layer, _TRANSPOSED):
            macs.append(inputs[0].numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.RNNBase):
            # Every matrix of every layer and direction once a step.
            matrices = sum(value.numel() for name, value in layer.named_parameters() if name.startswith("weight"))
            macs.append(inputs[0].numel() // layer.input_size * matrices)

    counted = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED, nn.RNNBase)
    handles = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, counted)]
    try:
        run_on_zeros(module, input_shape, batch=1)
    finally:
        for handle in handles:
            handle.remove()
    return sum(macs)
