"""Networks from timm (extra `timm`), never with a download."""

from __future__ import annotations

from types import ModuleType

from torch import nn

from edgekd.core.errors import ConfigError, missing_package, unknown_name
from edgekd.models.torchvision_repair import import_beside_torchvision


def net_from_timm(name: str, *, in_channels: int, num_classes: int) -> nn.Module:
    """Make a freshly initialised timm network.

    Args:
        name: Its name in timm.
        in_channels: Colour channels.
        num_classes: Length of its logits.

    Raises:
        ConfigError: timm has no such network, or cannot make it for these channels and classes.
        PreconditionError: timm or its torchvision is not installed.
    """
    timm = _import_timm(name)
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    try:
        net = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise ConfigError(f"timm cannot make {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ConfigError(f"timm made {type(net).__name__} of {name!r}, expected a torch.nn.Module")
    return net


def _import_timm(name: str) -> ModuleType:
    try:
        return import_beside_torchvision("timm")
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "timm", "timm", f"network timm:{name}") from error
