"""Passes of frozen networks replayed as CUDA graphs: one launch in place of hundreds, where shapes stay the same.

What trains is graphed by `train.compile=reduce-overhead`, which knows its backward pass; a frozen network has none, and
is captured here as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.distill.net import Backbone, Seen, TracedNet, capture
from edgekd.distill.settings import TrainSettings

_WARM_UP = 3


@contextmanager
def graphed(nets: Sequence[TracedNet], settings: TrainSettings, device: torch.device) -> Iterator[None]:
    """Let the frozen ones of some networks run as CUDA graphs within the block, where that was asked for.

    Args:
        nets: Networks tapped as the stage needs them.
        settings: The run's settings.
        device: Where they run.

    Raises:
        ConfigError: There is no GPU; or the networks run compiled, or gradients with respect to inputs are read.
    """
    if not settings.cuda_graphs:
        yield
        return
    if device.type != "cuda":
        raise ConfigError(f"CUDA graphs need a CUDA GPU and training runs on {device}: set train.cuda_graphs=false")
    if settings.compile != "no":
        raise ConfigError("compiled passes bring their own CUDA graphs: set train.compile=reduce-overhead alone")
    frozen = [net for net in nets if not any(parameter.requires_grad for parameter in net.parameters())]
    frozen = [net for net in frozen if not net.traces_input_gradient and not net.training]
    for net in frozen:
        net.run_backbone = _replayed(net)
    try:
        yield
    finally:
        for net in frozen:
            net.run_backbone = None


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    logits: Tensor
    feats: dict[str, Tensor]

    def replay(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the graph; what it gives is copied, since the next run writes into the same memory."""
        self.inputs.copy_(inputs)
        self.graph.replay()
        return self.logits.clone(), {path: feat.clone() for path, feat in self.feats.items()}


def _replayed(net: TracedNet) -> Backbone:
    by_shape: dict[tuple[object, ...], _Captured] = {}

    def run(inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        key = (*inputs.shape, inputs.dtype, inputs.stride(), torch.is_autocast_enabled("cuda"))
        if key not in by_shape:
            by_shape[key] = _captured(net, inputs)
        return by_shape[key].replay(inputs)

    return run


def _captured(net: TracedNet, inputs: Tensor) -> _Captured:
    seen, static = Seen(), inputs.clone()
    handles = capture(net.backbone, net.watched, seen)
    try:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                net.backbone(static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Casts that autocast keeps for reuse would be freed after the capture and still be read by a replay.
        casting = torch.autocast("cuda", cache_enabled=False, enabled=torch.is_autocast_enabled("cuda"))
        with torch.no_grad(), casting, torch.cuda.graph(graph):
            logits = net.backbone(static)
        return _Captured(graph, static, logits, dict(seen.feats))
    finally:
        for handle in handles:
            handle.remove()
