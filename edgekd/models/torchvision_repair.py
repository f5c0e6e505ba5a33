"""Packages that import torchvision (timm; transformers, where it is installed) next to a torch it was not built for.

The published wheel of torchvision cannot be imported next to a CPU build of torch: its compiled operators do not load,
and registering their shapes then fails. Where exactly that happens, the operators are declared (not defined: calling
one still fails) and the import is tried again. A working torchvision never gets here.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import torch

_ABSENT_OPERATOR = "operator torchvision::nms does not exist"


def import_beside_torchvision(name: str) -> ModuleType:
    """Import a module; raises what the import raises, but for the one reason that can be put right.

    Args:
        name: Full name of the module.
    """
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if _ABSENT_OPERATOR not in str(error):
            raise
    _declare_operators()
    again = ("torchvision", name.partition(".")[0])
    for loaded in [key for key in sys.modules if key.partition(".")[0] in again]:
        del sys.modules[loaded]
    return importlib.import_module(name)


@functools.cache
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library
