"""How many CPU threads a step is worth: small networks lose more in handing work over than they gain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MACS_WORTH_SHARING = 1_000_000_000


def threads_for(macs_per_step: int) -> int:
    """Return the CPU threads for a step of so many forward multiply-accumulates: one, or all there are."""
    return torch.get_num_threads() if macs_per_step >= _MACS_WORTH_SHARING else 1


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run the block with `count` CPU threads inside PyTorch operators."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
