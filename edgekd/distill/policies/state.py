"""States within states: flat dictionaries of tensors whose names say whose they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def owned(owner: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state under its owner's name, on the CPU and cut off from what it is a state of."""
    return {f"{owner}.{name}": value.detach().cpu().clone() for name, value in state.items()}


def owned_by(owner: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of a state that is the owner's, as the owner gave it."""
    prefix = f"{owner}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
