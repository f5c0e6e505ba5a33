"""The same work for many things, so many at once, ended together: whatever one runs into, none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


async def each(items: Iterable[S], work: Callable[[S], Awaitable[T]], *, at_once: int) -> list[T]:
    """Do one work for each of several things, and wait for all.

    Args:
        items: The things.
        work: What to do with one.
        at_once: How many are worked on at the same time.

    Returns:
        Their results, in order.

    Raises:
        Exception: The first that one of them raised; the others were cancelled and came to rest.
    """
    limit = asyncio.Semaphore(at_once)

    async def one(item: S) -> T:
        async with limit:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    except asyncio.CancelledError:  # gather has told them; telling them twice would cut off what they end with
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    except Exception:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
