"""What a command prints: one document for programs, or words for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd_agent.errors import EXIT_DONE


@dataclass(frozen=True)
class Answer:
    """The end of a command.

    Attributes:
        document: For `--json`.
        text: Else.
        exit_code: Exit code.
    """

    document: Mapping[str, Any]
    text: str
    exit_code: int = EXIT_DONE
