"""How maps lie in memory: channel by channel, or channels last where that is faster and sure to work."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill.net import TracedNet
from edgekd.distill.session import Session
from edgekd.distill.settings import TrainSettings
from edgekd.models import evaluating

_BLOCK = 16
_VECTOR = 8
_PICTURE_CHANNELS = 4


def lay_out(session: Session, settings: TrainSettings, device: torch.device) -> TrainSettings:
    """Put a session's networks on a device, their weights in the layout of the run.

    Args:
        session: The networks.
        settings: `channels_last` asks for a layout; None takes channels last in mixed precision and on an x86 CPU,
            where every network takes it, and on the CPU has usual convolutions only.
        device: Where to.

    Returns:
        The settings, with a `channels_last` that is decided.

    Raises:
        ConfigError: Gradients would be written beyond their memory; see `_require_sound`.
    """
    for net in session.nets.values():
        net.to(device)
    is_last = settings.channels_last
    if is_last is None:
        is_last = (
            len(session.input_shape) == 3 and _is_faster(session, settings, device) and _all_take_it(session, device)
        )
    if device.type == "cpu" and _is_unsound() and (is_last or settings.compile != "no"):
        _require_sound(session)
    if is_last:
        for net in session.nets.values():
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return settings.model_copy(update={"channels_last": is_last})


def laid_out(batch: Batch, settings: TrainSettings) -> Batch:
    """Return a batch whose pictures are laid out as `lay_out` decided; other inputs stay as they are."""
    if not settings.channels_last or batch.inputs.dim() != 4:
        return batch
    return replace(batch, inputs=batch.inputs.contiguous(memory_format=torch.channels_last))


@contextmanager
def layout_told() -> Iterator[None]:
    """Turn the error of what cannot read maps in this layout into one that says what to set.

    Raises:
        ConfigError: A network or a term in the block took a `view` of maps that have their channels last.
    """
    try:
        yield
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        raise ConfigError(
            f"a network or a term needs maps channel by channel ({error}): use reshape or flatten there, or set "
            "train.channels_last=false"
        ) from error


def _is_faster(session: Session, settings: TrainSettings, device: torch.device) -> bool:
    if device.type != "cpu":
        return settings.precision != "no"
    return platform.machine() in ("x86_64", "AMD64") and all(_is_usual(module) for _, module in _convolutions(session))


def _convolutions(session: Session) -> Iterator[tuple[str, nn.Module]]:
    kinds = nn.modules.conv._ConvNd
    for role, net in session.nets.items():
        yield from ((f"{role}.{name}", module) for name, module in net.named_modules() if isinstance(module, kinds))


def _is_usual(module: nn.Module) -> bool:
    """Whether a convolution is one that everybody runs channels last: whole blocks of channels, or of a picture."""
    if not isinstance(module, nn.Conv2d) or module.out_channels % _BLOCK:
        return False
    if module.groups > 1:
        return module.groups == module.in_channels == module.out_channels
    is_first = module.in_channels <= _PICTURE_CHANNELS and module.kernel_size != (1, 1)
    return is_first or module.in_channels % _BLOCK == 0


def _is_unsound() -> bool:
    """Whether oneDNN takes other kernels than those for AVX-512, the only ones known to keep within their memory."""
    return torch.backends.cpu.get_cpu_capability() != "AVX512" or "ONEDNN_MAX_CPU_ISA" in os.environ


def _require_sound(session: Session) -> None:
    """Refuse what oneDNN, as torch 2.13 has it, computes beyond its memory with AVX2: processes crash, now or later.

    That is the gradient of the weights of a 1 x 1 convolution with a stride, on maps with channels last that are no
    whole vectors of 8. Compiled passes lay maps out so by themselves.
    """
    for name, module in _convolutions(session):
        if not isinstance(module, nn.Conv2d) or module.in_channels % _VECTOR == 0:
            continue
        if module.kernel_size == (1, 1) and module.stride != (1, 1):
            raise ConfigError(
                f"{name}, a 1 x 1 convolution of {module.in_channels} channels with a stride, corrupts memory on this "
                "CPU with channels last, which compiled passes use too: set train.channels_last=false and "
                f"train.compile=no or take a width that is a multiple of {_VECTOR}"
            )


def _all_take_it(session: Session, device: torch.device) -> bool:
    return len(session.input_shape) == 3 and all(
        _takes_it(net, session.input_shape, device) for net in session.nets.values()
    )


def _takes_it(net: TracedNet, shape: tuple[int, ...], device: torch.device) -> bool:
    """Whether two blank pictures go through a network; `view` of what has another layout does not."""
    pictures = torch.zeros(2, *net.shape_seen(shape), device=device).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), evaluating(net.backbone):
        try:
            net.backbone(pictures)
        except RuntimeError:
            return False
    return True
