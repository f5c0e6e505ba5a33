"""Bytes that a loss must move through memory, from shapes alone: what a measured time is held against.

An operator has to read each of its tensors and write each of its results at least once. Summed over the operators of
a loss that is the traffic of one whose every operator is a perfect kernel: for a fused loss nearly the least possible,
for a formula of many operators what its author pays for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Traffic:
    """Bytes read and written, and operators that did so.

    Attributes:
        forward_bytes: By the values.
        backward_bytes: By the gradients.
        forward_operators: That touch memory.
        backward_operators: That touch memory.
    """

    forward_bytes: int
    backward_bytes: int
    forward_operators: int
    backward_operators: int

    @property
    def bytes(self) -> int:
        """Bytes of both directions."""
        return self.forward_bytes + self.backward_bytes


def bytes_moved(loss: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Traffic:
    """Return the traffic of a loss and of its gradients, without computing either.

    The loss runs on tensors of the `meta` device, on which the functions of `edgekd_kernels.functional` take the way
    they take on a GPU: one operator forward, one backward.

    Args:
        loss: Function of tensors that returns a tensor, such as `functional.kd_kl`.
        tensors: Its tensors, which give shapes, strides and dtypes; those that require a gradient get one.
        options: Its other arguments; tensors among them count like the others.

    Returns:
        The traffic; nothing backward when no tensor requires a gradient.
    """
    arguments = [_on_meta(value) for value in tensors]
    named = {name: _on_meta(value) for name, value in options.items()}
    with _Count() as forward:
        values = loss(*arguments, **named)
    backward = _Count()
    if values.requires_grad:
        upstream = torch.empty_like(values)
        with backward:
            values.backward(upstream)  # type: ignore[no-untyped-call]
    return Traffic(forward.bytes, backward.bytes, forward.operators, backward.operators)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums what operators read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = 0 if func.is_view else sum(map(_extent, (*_tensors(args), *_tensors(kwargs), *_tensors(result))))
        self.bytes += moved
        self.operators += moved > 0
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _extent(tensor: Tensor) -> int:
    """Return the bytes of a tensor, each element once even where an expanded dimension repeats it."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * tensor.element_size()


def _on_meta(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_on_meta(each) for each in value]
    if not isinstance(value, Tensor):
        return value
    meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return meta.requires_grad_(value.requires_grad)
