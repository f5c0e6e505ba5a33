"""What long work tells its caller: plain events, rendered by the CLI and kept in the run's `log.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: `"start"`, `"progress"`, `"end"` or `"note"`; `"step"` and `"result"`, for logs and plots, are not shown.
        stage: Which piece of work (`"student/seed0"`).
        message: One line for people.
        done: Units finished, for progress.
        total: Units in all, for progress; 0 when unknown.
        values: Numbers worth keeping (`{"loss": 0.3, "accuracy": 0.91}`).
    """

    kind: str
    stage: str
    message: str = ""
    done: int = 0
    total: int = 0
    values: Mapping[str, float] = field(default_factory=dict)


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event: the default listener."""
