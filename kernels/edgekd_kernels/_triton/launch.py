"""How kernels are launched."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which launches go to a tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
