"""How much memory there is, and how to tell that it was not enough."""

from __future__ import annotations

import psutil
import torch

_GIB = 1 << 30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text


def memory_in_words(device: torch.device) -> str:
    """Return how much memory a device has and how much is in use."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        return f"{total / _GIB:.1f} GiB on the GPU, {free / _GIB:.1f} GiB free, {peak / _GIB:.1f} GiB used at most"
    memory = psutil.virtual_memory()
    own = psutil.Process().memory_info().rss
    return f"{memory.total / _GIB:.1f} GiB here, {memory.available / _GIB:.1f} GiB free, {own / _GIB:.1f} GiB in use"
