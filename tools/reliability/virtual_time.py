"""An event loop whose clock jumps to the next timer instead of waiting, so that hours of a fleet pass in a moment."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """A selector that never sleeps: what the loop would have waited is added to its clock."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Return what is ready; without anything, time goes on by `timeout`."""
        ready = super().select(0)
        if not ready and timeout:
            self.now_s += timeout
        return list(ready)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; nothing in it may wait for threads."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumping.now_s


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
