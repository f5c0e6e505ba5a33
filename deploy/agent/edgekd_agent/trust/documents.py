"""Small documents that a device acts on: bounded, of one form, checked against claims, every problem in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from edgekd_agent import strict
from edgekd_agent.trust.errors import TrustError

T = TypeVar("T")


def checked(
    content: bytes,
    form: type[T],
    name: str,
    *,
    most_bytes: int,
    parse: Callable[[bytes], Any],
    claims: Callable[[T], Iterable[tuple[object, str]]],
) -> T:
    """Return a document as a dataclass.

    Args:
        content: The whole file.
        form: The dataclass.
        name: What the file is called in messages.
        most_bytes: Longest that is read.
        parse: `strict.parse` for canonical JSON, `strict.load` for JSON that people may lay out as they like.
        claims: What must hold of it, each with what is wrong where it does not.

    Raises:
        TrustError: `"schema"` with every problem.
    """
    if len(content) > most_bytes:
        raise TrustError("schema", f"{name} is longer than {most_bytes} bytes")
    problems: list[str] = []
    try:
        found = strict.build(form, parse(content), name.partition(".")[0], problems)
    except strict.NotStrictJson as error:
        raise TrustError("schema", f"{name}: {error}") from error
    if found is not None:
        problems = [message for holds, message in claims(found) if not holds]
    if found is None or problems:
        raise TrustError("schema", f"{name}: " + "; ".join(problems))
    return found
