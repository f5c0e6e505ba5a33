"""Parts of a trace as rows of bytes and back: whole, or the largest logits and the mass of the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgekd.core.errors import ConfigError
from edgekd.distill.teacher_cache.blocks import Records

Stored = Literal["fp16", "fp32"]
_TYPES = {"fp16": torch.float16, "fp32": torch.float32}
_LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class Layout:
    """How a part of a trace lies in a row.

    Attributes:
        shape: Of one sample.
        stored: Type of the values on disk.
        top: How many of the largest values are kept of a vector, None for all of them.
    """

    shape: tuple[int, ...]
    stored: Stored
    top: int | None = None

    @property
    def row_bytes(self) -> int:
        """Length of a row in bytes."""
        size = _TYPES[self.stored].itemsize
        return size * math.prod(self.shape) if self.top is None else (size + 4) * self.top + size

    def packed(self, values: Tensor) -> Records:
        """Return values `[n, *shape]` as rows of bytes.

        Raises:
            ConfigError: A value is larger than the type holds.
        """
        flat = values.detach().reshape(len(values), -1).float()
        if self.top is None:
            return self._bytes(flat)
        largest = flat.topk(self.top, dim=1)
        rest = flat.scatter(1, largest.indices, -math.inf).logsumexp(dim=1, keepdim=True)
        kept = torch.cat([largest.values, rest - math.log(flat.shape[1] - self.top)], dim=1)
        places = largest.indices.to(torch.int32).cpu().contiguous().numpy().view(np.uint8)
        return np.concatenate([places, self._bytes(kept)], axis=1)

    def unpacked(self, records: Records, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return rows of bytes as values `[n, *shape]` of this type.

        Where only the largest logits were kept, all others are equal, and their probabilities sum up to what they were.
        """
        count = len(records)
        if self.top is None:
            return self._values(records, device).to(dtype).reshape(count, *self.shape)
        places = torch.from_numpy(records[:, : 4 * self.top].copy()).view(torch.int32).to(device).long()
        kept = self._values(records[:, 4 * self.top :].copy(), device).to(dtype)
        full = kept[:, -1:].repeat(1, math.prod(self.shape))
        return full.scatter_(1, places, kept[:, :-1])

    def _bytes(self, values: Tensor) -> Records:
        kept = values.to(_TYPES[self.stored])
        if self.stored == "fp16" and bool((kept.isinf() & values.isfinite()).any()):
            raise ConfigError(
                f"an output of the teacher is {values.abs().max().item():.4g}, more than fp16 holds "
                f"({_LARGEST_FP16:.0f}): set train.cache_dtype=fp32"
            )
        return kept.cpu().contiguous().numpy().view(np.uint8).reshape(len(values), -1)

    def _values(self, records: Records, device: torch.device) -> Tensor:
        values = torch.from_numpy(records).view(_TYPES[self.stored])
        return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
