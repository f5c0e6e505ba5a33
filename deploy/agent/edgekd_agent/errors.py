"""Why a command of the agent ends without success, and with which exit code."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "failed",
    "usage",
    "busy",
    "locked",
    "bad",
    "missing",
    "damaged",
    "build",
    "health",
    "budget",
    "memory",
    "unconfirmed",
    "incompatible",
    "space",
    "precondition",
    "storage",
    "trust",
]

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_GATE = 3
EXIT_INCOMPATIBLE = 4
EXIT_PRECONDITION = 5
EXIT_TRUST = 6

_EXIT_CODES: dict[Kind, int] = {
    "usage": EXIT_USAGE,
    "health": EXIT_GATE,
    "budget": EXIT_GATE,
    "memory": EXIT_GATE,
    "unconfirmed": EXIT_GATE,
    "incompatible": EXIT_INCOMPATIBLE,
    "space": EXIT_PRECONDITION,
    "precondition": EXIT_PRECONDITION,
    "trust": EXIT_TRUST,
}


class AgentError(Exception):
    """What cannot be done: a kind for programs, words for people."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.message = message

    @property
    def exit_code(self) -> int:
        """The exit code that goes with the kind."""
        return _EXIT_CODES.get(self.kind, EXIT_FAILED)
