"""How long work shows on stderr: live bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from edgekd.cli.pace import Pace, left_in_words
from edgekd.core.events import Event, Listener, silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 5.0
_UNSHOWN = ("step", "result")


@dataclass(frozen=True)
class Verbosity:
    """How much the user wants to see; the `obj` of every command's context.

    Attributes:
        is_quiet: No progress.
        is_verbose: Tracebacks of errors.
    """

    is_quiet: bool
    is_verbose: bool


@contextmanager
def progress(*, is_quiet: bool = False, stream: TextIO | None = None) -> Iterator[Listener]:
    """Show events until the block ends.

    Args:
        is_quiet: Show nothing.
        stream: Where to show them; stderr by default.

    Yields:
        The listener to hand to library functions.
    """
    stream = sys.stderr if stream is None else stream
    if is_quiet:
        yield silent
    elif stream.isatty():
        with _bars(stream) as bars:
            yield LiveProgress(bars)
    else:
        yield PlainProgress(stream)


class PlainProgress:
    """A listener that writes lines: every start, end and note, and progress every few seconds per stage."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._started_s: dict[str, float] = {}
        self._shown_s: dict[str, float] = {}
        self._pace = Pace()

    def __call__(self, event: Event) -> None:
        """Write a line if it is time for one."""
        if event.kind in _UNSHOWN:
            return
        now_s, left = self._clock(), ""
        if event.kind == "start":
            self._started_s[event.stage] = self._shown_s[event.stage] = now_s
        if event.kind == "progress":
            left = _left(self._pace, event, now_s)
            if now_s - self._shown_s.get(event.stage, now_s - _LINE_EVERY_S) < _LINE_EVERY_S:
                return
            self._shown_s[event.stage] = now_s
        self._stream.write(self._line(event, now_s, left) + "\n")
        self._stream.flush()

    def _line(self, event: Event, now_s: float, left: str) -> str:
        words = {"start": "start", "progress": _count(event), "end": "done", "note": ""}[event.kind]
        parts = [words, *_details(event)]
        if event.kind in ("progress", "end") and event.stage in self._started_s:
            parts.append(f"{now_s - self._started_s[event.stage]:.1f} s")
        parts.append(left)
        return f"{event.stage}: " + ", ".join(filter(None, parts))


class LiveProgress:
    """A listener that moves one bar per running stage and leaves a line for each finished one."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._pace = Pace()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind in _UNSHOWN:
            return
        if event.kind in ("start", "progress"):
            self._move(event)
        else:
            self._leave_line(event)

    def _move(self, event: Event) -> None:
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bars.add_task(event.stage, total=event.total or None, details="")
        left = _left(self._pace, event, time.monotonic()) if event.kind == "progress" else ""
        self._bars.update(
            self._tasks[event.stage],
            completed=event.done,
            total=event.total or None,
            details=", ".join(filter(None, [left, *_details(event)])),
        )

    def _leave_line(self, event: Event) -> None:
        from rich.text import Text

        parts = _details(event)
        if event.kind == "end":
            parts = ["done", *parts]
            if event.stage in self._tasks:
                task = self._tasks.pop(event.stage)
                parts.append(f"{self._bars.tasks[self._bars.task_ids.index(task)].elapsed or 0.0:.1f} s")
                self._bars.remove_task(task)
        self._bars.console.print(Text(f"{event.stage}: {', '.join(parts)}"), soft_wrap=True)


@contextmanager
def _bars(stream: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[details]}", markup=False),
    )
    with Progress(*columns, console=Console(file=stream)) as bars:
        yield bars


def _count(event: Event) -> str:
    return f"{event.done}/{event.total}" if event.total else f"{event.done}"


def _left(pace: Pace, event: Event, now_s: float) -> str:
    left_s = pace.left_s(event, now_s)
    return left_in_words(left_s) if left_s else ""


def _details(event: Event) -> list[str]:
    if event.kind == "progress" and event.message:
        return [event.message]
    numbers = " ".join(f"{name} {value:.4g}" for name, value in event.values.items() if name != "seconds")
    return [part for part in (event.message, numbers) if part]
