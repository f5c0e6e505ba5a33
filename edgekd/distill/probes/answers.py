"""What networks answer to tensors of pictures: logits, decisions, feature maps, gradients of maps.

Everything runs in evaluation mode and in batches, and leaves the network as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgekd.core.errors import ConfigError
from edgekd.distill.net import Seen, capture
from edgekd.models import Tap, discover_taps, evaluating

BATCH_SIZE = 256


def logits_on(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return logits, float32 `[N, K]` on the CPU, for inputs `[N, C, H, W]`."""
    device = device_of(network)
    with evaluating(network):
        return torch.cat([network(part.to(device)).float().cpu() for part in torch.split(inputs, BATCH_SIZE)])


def decisions(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the class each input `[N, C, H, W]` is put into, int64 `[N]`."""
    return logits_on(network, inputs).argmax(dim=1)


def features_on(network: nn.Module, inputs: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """Return the outputs of modules, float32 `[N, ...]` on the CPU by path, for inputs `[N, C, H, W]`."""
    device = device_of(network)
    parts: dict[str, list[Tensor]] = {path: [] for path in paths}
    with evaluating(network):
        for part in torch.split(inputs, BATCH_SIZE):
            with captured(network, paths) as seen:
                network(part.to(device))
            for path in paths:
                parts[path].append(seen[path].float().cpu())
    return {path: torch.cat(outputs) for path, outputs in parts.items()}


def stage_ends(network: nn.Module, input_shape: tuple[int, ...]) -> list[Tap]:
    """Return the stage ends of a network, shallow to deep, for inputs `(C, H, W)`.

    Raises:
        ConfigError: There are none.
    """
    taps = discover_taps(network, input_shape)
    if not taps:
        raise ConfigError("the network exposes no feature [B, C, H, W] or [B, D] that could be read")
    return taps


def map_from_end(network: nn.Module, input_shape: tuple[int, ...], index: int) -> Tap:
    """Return the feature map `[C, H, W]` that stands `index` stages from the end, 1 being the last.

    Raises:
        ConfigError: There is no such map.
    """
    maps = [tap for tap in stage_ends(network, input_shape) if len(tap.shape) == 3]
    if not 1 <= index <= len(maps):
        raise ConfigError(f"layer is {index}, counted from the last map: the network has {len(maps)} maps")
    return maps[-index]


def device_of(network: nn.Module) -> torch.device:
    """Return the device a network's first parameter lies on."""
    return next(network.parameters()).device


@contextmanager
def captured(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what taps see while the block runs the network.

    Yields:
        Features by path, filled by the forward pass.
    """
    seen = Seen()
    handles = capture(network, paths, seen)
    try:
        yield seen.feats
    finally:
        for handle in handles:
            handle.remove()
