"""Many tasks at once, ended together: whatever one of them runs into, none is left running behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Wait for all.

    Args:
        work: What to do at once.

    Returns:
        Their results, in order.

    Raises:
        Exception: The first that one of them raised; the others were cancelled and came to rest.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
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
