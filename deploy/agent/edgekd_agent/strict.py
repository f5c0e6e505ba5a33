"""JSON read without trust: no repeated keys, no NaN, no unknown or missing fields, no silent type changes.

The dataclass is the schema: `build` walks its annotations, so a field is written down once. Every problem found is
kept, none is guessed around.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


class NotStrictJson(Exception):
    """Bytes that are not JSON, or are JSON that two readers could understand differently."""


def canonical(document: Any) -> bytes:
    """Return the one byte form of plain data: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse(content: bytes) -> Any:
    """Read canonical JSON bytes.

    Args:
        content: UTF-8 JSON, in canonical form.

    Returns:
        Plain data.

    Raises:
        NotStrictJson: As for `load`, or not canonical.
    """
    document = load(content)
    try:
        is_canonical = canonical(document) == content
    except (ValueError, RecursionError) as error:
        raise NotStrictJson(f"not strict JSON: {error}") from error
    if not is_canonical:
        raise NotStrictJson("not canonical JSON (sorted keys, no spaces, ASCII)")
    return document


def load(content: bytes) -> Any:
    """Read JSON bytes in any layout.

    Args:
        content: UTF-8 JSON.

    Returns:
        Plain data.

    Raises:
        NotStrictJson: Not UTF-8, not JSON, nested too deeply, a key twice, NaN or infinity.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise NotStrictJson(f"not strict JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is given twice")
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def build(cls: type[T], document: Any, where: str, problems: list[str]) -> T | None:
    """Make a dataclass from plain data, or explain why not.

    Args:
        cls: A frozen dataclass whose fields are strings, numbers, booleans, literals, optional values, tuples,
            `Mapping[str, ...]` or dataclasses of these.
        document: Plain JSON data.
        where: Name of `document` in messages.
        problems: Receives one sentence for each problem.

    Returns:
        The value, or None when there was at least one problem.
    """
    if not isinstance(document, dict):
        problems.append(f"{where}: expected an object, found {_kind(document)}")
        return None
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy does not see that a class is hashable
    found = len(problems)
    problems.extend(f"{where}: unknown key {key!r}" for key in sorted(document.keys() - hints.keys()))
    problems.extend(f"{where}.{key}: missing" for key in sorted(hints.keys() - document.keys()))
    values = {
        key: _value(hint, document[key], f"{where}.{key}", problems) for key, hint in hints.items() if key in document
    }
    return cls(**values) if len(problems) == found else None


@lru_cache(maxsize=64)
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Return the annotations of a dataclass; evaluating them takes longer than reading the file."""
    return get_type_hints(cls)


def _value(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    if get_origin(hint) is types.UnionType:
        kept = next(option for option in get_args(hint) if option is not type(None))
        return None if value is None else _value(kept, value, where, problems)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where, problems)
    if get_origin(hint) in (tuple, Mapping):
        return _collection(hint, value, where, problems)
    return _scalar(hint, value, where, problems)


def _collection(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    item_hint = get_args(hint)[0] if get_origin(hint) is tuple else get_args(hint)[1]
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(item_hint, item, f"{where}[{i}]", problems) for i, item in enumerate(value))
    if get_origin(hint) is Mapping and isinstance(value, dict):
        return {key: _value(item_hint, item, f"{where}[{key!r}]", problems) for key, item in value.items()}
    problems.append(f"{where}: expected {'a list' if get_origin(hint) is tuple else 'an object'}, found {_kind(value)}")
    return None


def _scalar(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    if get_origin(hint) is Literal:
        if not any(type(value) is type(option) and value == option for option in get_args(hint)):
            problems.append(f"{where}: {value!r} is none of {', '.join(map(repr, get_args(hint)))}")
        return value
    if hint is float and type(value) is int and math.isfinite(_as_float(value)):
        return float(value)
    if type(value) is not hint:
        problems.append(f"{where}: expected {hint.__name__}, found {_kind(value)}")
    elif hint is float and not math.isfinite(value):
        problems.append(f"{where}: {value} is not finite")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
