"""What may be asked through the socket. Whoever asks is let in to push releases, not to run programs or name paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekd_agent import strict
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import checked_digest

MAX_REQUEST_BYTES = 16 << 10
_MAX_VALUE_CHARS = 1000


@dataclass(frozen=True)
class _Request:
    schema_version: Literal[1]
    words: tuple[str, ...]


@dataclass(frozen=True)
class _Form:
    """How a command may be asked: what it must have, what it may have, and whether it ends with a digest."""

    needed: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    has_digest: bool = False
    is_long: bool = False


_PLAIN = _Form()
FORMS: Mapping[str, _Form] = {
    "hello": _PLAIN,
    "want": _PLAIN,
    "status": _PLAIN,
    "metrics": _PLAIN,
    "gc": _PLAIN,
    "confirm": _PLAIN,
    "install": _Form(needed=("--detach",), flags=("--detach",)),
    "rollback": _Form(values=("--reason",), is_long=True),
    "forgive": _Form(has_digest=True),
    "lock": _Form(needed=("--owner",), values=("--owner",)),
    "unlock": _Form(needed=("--owner",), flags=("--force",), values=("--owner",)),
}


def words_of(request: bytes) -> list[str]:
    """Read a request: one line of JSON, `{"schema_version":1,"words":["lock","--owner","ann"]}`.

    Returns:
        Words for the agent's own command line, values tied to their options so that none can pass for an option.

    Raises:
        AgentError: `"usage"` when it is anything else than what operators need.
    """
    problems: list[str] = []
    try:
        found = strict.build(_Request, strict.load(request), "request", problems)
    except strict.NotStrictJson as error:
        raise AgentError("usage", f"the request is {error}") from error
    if found is None or not found.words:
        raise AgentError("usage", "; ".join(problems) or "the request has no words")
    return [found.words[0], *_arguments(found.words[0], list(found.words[1:]))]


def is_long(words: Sequence[str]) -> bool:
    """Say whether a command may take as long as building an engine."""
    return FORMS[words[0]].is_long


def _arguments(command: str, left: list[str]) -> list[str]:
    form = FORMS.get(command)
    if form is None:
        raise AgentError("usage", f"{command[:40]!r} is not asked here; there are {', '.join(FORMS)}")
    found: dict[str, str] = {}
    while left:
        word = left.pop(0)
        if word in found or (word in form.values and not left):
            raise AgentError("usage", f"{command}: {word} is given twice or without its value")
        if word in form.flags:
            found[word] = word
        elif word in form.values:
            found[word] = f"{word}={_value(command, left.pop(0))}"
        elif form.has_digest and not found:
            found[""] = _digest(word)
        else:
            raise AgentError("usage", f"{command}: {word[:40]!r} is not asked here")
    if missing := [name for name in (*form.needed, *([""] if form.has_digest else [])) if name not in found]:
        raise AgentError("usage", f"{command}: {missing[0] or 'a digest'} is missing")
    return list(found.values())


def _value(command: str, text: str) -> str:
    if len(text) > _MAX_VALUE_CHARS or not text.isprintable():
        raise AgentError("usage", f"{command}: a value is not printable, or longer than {_MAX_VALUE_CHARS} characters")
    return text


def _digest(text: str) -> str:
    try:
        return checked_digest(text)
    except ValueError as error:
        raise AgentError("usage", str(error)) from error
