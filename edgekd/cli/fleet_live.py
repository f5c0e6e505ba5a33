"""Devices at work, shown on stderr: a live table on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from edgekd.cli.console import PlainProgress
from edgekd.core.events import Event, Listener, silent

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_MOST_ROWS = 20


@contextmanager
def fleet_progress(*, is_quiet: bool = False, stream: TextIO | None = None) -> Iterator[Listener]:
    """Show devices until the block ends.

    Args:
        is_quiet: Show nothing.
        stream: Where to show them; stderr by default.

    Yields:
        The listener to hand to the fleet's functions.
    """
    stream = sys.stderr if stream is None else stream
    with _drops_told_once():
        if is_quiet:
            yield silent
        elif not stream.isatty():
            yield PlainProgress(stream)
        else:
            from rich.console import Console
            from rich.live import Live

            board = DeviceBoard()
            with Live(console=Console(file=stream), get_renderable=board.table, refresh_per_second=4) as live:
                board.live = live
                yield board


@contextmanager
def _drops_told_once() -> Iterator[None]:
    """Keep asyncio from adding a line of its own for every write that was under way when a connection dropped."""
    logger = logging.getLogger("asyncio")

    def is_news(record: logging.LogRecord) -> bool:
        return record.getMessage() != "socket.send() raised exception."

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


class DeviceBoard:
    """A listener that keeps a table of the devices at work, and counts of those that are through."""

    def __init__(self) -> None:
        self.live: Live | None = None
        self._at_work: dict[str, tuple[float, str, str]] = {}
        self._ends: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "start":
            self._at_work[event.stage] = (time.monotonic(), event.message, "")
        elif event.kind == "progress" and event.stage in self._at_work:
            started_s, address, _ = self._at_work[event.stage]
            self._at_work[event.stage] = (started_s, address, event.message)
        elif event.kind == "end":
            self._at_work.pop(event.stage, None)
            self._ends[event.message.partition(":")[0]] += 1
            self._leave(f"{event.stage}: {event.message}")
        elif event.kind == "note":
            self._leave(f"{event.stage}: {event.message}")

    def table(self) -> Table:
        """Return the table as it is now."""
        from rich.table import Table
        from rich.text import Text

        counts = ", ".join(f"{count} {end}" for end, count in sorted(self._ends.items())) or "none through yet"
        table = Table(title=Text(f"{len(self._at_work)} devices at work; {counts}"), title_justify="left", box=None)
        for name in ("device", "address", "doing", "seconds"):
            table.add_column(name, no_wrap=True)
        now_s = time.monotonic()
        for device, (started_s, address, doing) in list(self._at_work.items())[:_MOST_ROWS]:
            table.add_row(Text(device), Text(address), Text(doing), f"{now_s - started_s:.0f}")
        if len(self._at_work) > _MOST_ROWS:
            table.add_row(f"and {len(self._at_work) - _MOST_ROWS} more", "", "", "")
        return table

    def _leave(self, line: str) -> None:
        from rich.text import Text

        if self.live is not None:
            self.live.console.print(Text(line), soft_wrap=True)
