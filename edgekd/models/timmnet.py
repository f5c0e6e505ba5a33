"""Networks from timm (extra `timm`), never with a download.

timm imports torchvision, whose published wheel cannot be imported next to a CPU build of torch: its compiled
operators do not load, and registering their shapes then fails. Where exactly that happens, the operators are declared
(not defined: calling one still fails) and the import is tried again. A working torchvision never gets here.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import torch
from torch import nn

from edgekd.core.errors import ConfigError, missing_package, unknown_name

_ABSENT_OPERATOR = "operator torchvision::nms does not exist"


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
        return _import_repaired("timm")
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "timm", "timm", f"teacher timm:{name}") from error


def _import_repaired(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except RuntimeError as error:
        if _ABSENT_OPERATOR not in str(error):
            raise
    _declare_torchvision_operators()
    for loaded in [key for key in sys.modules if key.partition(".")[0] in ("torchvision", package)]:
        del sys.modules[loaded]
    return importlib.import_module(package)


@functools.cache
def _declare_torchvision_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library
