"""How maps lie in memory: channel by channel, or channels last where that is faster and all networks take it."""

from __future__ import annotations

from dataclasses import replace

import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.net import TracedNet
from edgekd.distill.session import Session
from edgekd.distill.settings import TrainSettings
from edgekd.models import evaluating


def lay_out(session: Session, settings: TrainSettings, device: torch.device) -> TrainSettings:
    """Put a session's networks on a device, their weights in the layout of the run.

    Args:
        session: The networks.
        settings: `channels_last` asks for a layout; None takes channels last on a CPU and in mixed precision, where
            every network takes it.
        device: Where to.

    Returns:
        The settings, with a `channels_last` that is decided.
    """
    for net in session.nets.values():
        net.to(device)
    if settings.channels_last is not None:
        is_last = settings.channels_last
    else:
        is_faster = device.type == "cpu" or settings.precision != "no"
        is_last = is_faster and len(session.input_shape) == 3 and _all_take_it(session, device)
    if is_last:
        for net in session.nets.values():
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return settings.model_copy(update={"channels_last": is_last})


def laid_out(batch: Batch, settings: TrainSettings) -> Batch:
    """Return a batch whose pictures are laid out as `lay_out` decided; other inputs stay as they are."""
    if not settings.channels_last or batch.inputs.dim() != 4:
        return batch
    return replace(batch, inputs=batch.inputs.contiguous(memory_format=torch.channels_last))


def layout_error(error: Exception) -> ConfigError | None:
    """Return what to tell of an error that the layout of maps caused, or None where another thing did."""
    if "view size is not compatible" not in str(error):
        return None
    return ConfigError(
        f"a network or a term needs maps channel by channel ({error}): use reshape or flatten there, or set "
        "train.channels_last=false"
    )


def _all_take_it(session: Session, device: torch.device) -> bool:
    return all(_takes_it(net, session.input_shape, device) for net in session.nets.values())


def _takes_it(net: TracedNet, shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether two blank pictures go through a network; `view` of what has another layout does not."""
    pictures = torch.zeros(2, *net.shape_seen(shape), device=device).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), evaluating(net.backbone):
        try:
            net.backbone(pictures)
        except RuntimeError:
            return False
    return True
