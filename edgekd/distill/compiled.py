"""Compiling the training pass of networks for the time of a stage, their taps inside the compiled graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch.utils.hooks import RemovableHandle

from edgekd.core.errors import ConfigError
from edgekd.distill.net import Backbone, Seen, TracedNet, capture

Mode = Literal["no", "default", "reduce-overhead", "max-autotune"]


@contextmanager
def compiled(nets: Sequence[TracedNet], mode: Mode) -> Iterator[None]:
    """Let networks run compiled within the block; outside of a trace (when they are evaluated) they run as ever.

    Args:
        nets: Networks tapped as the stage needs them.
        mode: Mode of `torch.compile`; `"no"` leaves them as they are.

    Raises:
        ConfigError: A term needs gradients with respect to a network's input, which a compiled pass does not give.
    """
    if mode == "no":
        yield
        return
    require_compilable(nets, mode)
    handles: list[RemovableHandle] = []
    try:
        for net in nets:
            seen = Seen()
            handles += capture(net.backbone, net.watched, seen)
            net.run_backbone = _compiled(net, seen, mode)
        yield
    finally:
        for net in nets:
            net.run_backbone = None
        for handle in handles:
            handle.remove()
        # The next stage's networks run through the same code: without this they would count as its recompilations.
        torch.compiler.reset()


def require_compilable(nets: Sequence[TracedNet], mode: Mode) -> None:
    """Refuse compiled passes of networks, tapped as a stage needs them, whose input gradients a term reads.

    Raises:
        ConfigError: A term does.
    """
    if mode != "no" and any(net.traces_input_gradient for net in nets):
        raise ConfigError("this method reads gradients with respect to inputs: set train.compile=no")


def _compiled(net: TracedNet, seen: Seen, mode: Mode) -> Backbone:
    def run(inputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        seen.feats = {}
        return net.backbone(inputs), seen.feats

    passed: Backbone = torch.compile(run, mode=mode, fullgraph=True, dynamic=False)
    return passed
