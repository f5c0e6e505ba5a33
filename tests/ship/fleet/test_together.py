"""The same work for many: so many at once, in order, and nothing left running when one of them fails."""

import asyncio

import pytest

from edgekd.ship.fleet.together import each


def test_so_many_are_worked_on_at_once_and_results_are_in_order():
    now, most = 0, 0

    async def work(item):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01 * (5 - item))
        now -= 1
        return item * item

    assert asyncio.run(each(range(5), work, at_once=2)) == [0, 1, 4, 9, 16]
    assert most == 2


def test_what_one_raises_ends_the_others_before_it_is_raised():
    ended = []

    async def work(item):
        if item == 0:
            await asyncio.sleep(0.01)
            raise ValueError("the first")
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(item)

    with pytest.raises(ValueError, match="the first"):
        asyncio.run(asyncio.wait_for(each(range(3), work, at_once=3), 5))
    assert sorted(ended) == [1, 2]
