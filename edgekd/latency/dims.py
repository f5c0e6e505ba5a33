"""Give the open dimensions of an ONNX file their values; latency depends on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.errors import ConfigError

LARGEST_DIM = 2**31 - 1
"""The largest dimension, and the largest batch, that is taken."""


def parse_dims(assignments: Sequence[str]) -> dict[str, int]:
    """Read `name=value` assignments.

    Args:
        assignments: The name of an open dimension (`height=224`), or an input and an axis (`images:2=224`).

    Returns:
        Values by name.

    Raises:
        ConfigError: One is malformed, not above zero or beyond 31 bits.
    """
    values: dict[str, int] = {}
    for assignment in assignments:
        name, _, number = assignment.rpartition("=")
        if not name.strip() or not number.strip().isdecimal() or not 1 <= int(number) <= LARGEST_DIM:
            raise ConfigError(f"--dim {assignment!r}: write it as height=224, or images:2=224 where it has no name")
        values[name.strip()] = int(number)
    return values


def close_dims(model: Any, values: Mapping[str, int], path: Path) -> None:
    """Fix open dimensions of a model, in place.

    Args:
        model: An ONNX model.
        values: As `parse_dims` returns them.
        path: Where it was read from, for messages.

    Raises:
        ConfigError: A name is that of no open dimension; those there are, are listed.
    """
    found = _open_dims(model.graph)
    unknown = [name for name in values if name not in found]
    if unknown:
        raise ConfigError(
            f"{path} has no open dimension {unknown[0]!r}; open are: {', '.join(sorted(found)) or 'none'}"
        )
    for name, value in values.items():
        for dim in found[name]:
            dim.dim_value = value


def _open_dims(graph: Any) -> dict[str, list[Any]]:
    initial = {item.name for item in graph.initializer}
    found: dict[str, list[Any]] = {}
    for item in graph.input:
        if item.name in initial:
            continue
        for axis, dim in enumerate(item.type.tensor_type.shape.dim):
            if dim.dim_value > 0:
                continue
            found.setdefault(f"{item.name}:{axis}", []).append(dim)
            if dim.dim_param:
                found.setdefault(dim.dim_param, []).append(dim)
    return found
