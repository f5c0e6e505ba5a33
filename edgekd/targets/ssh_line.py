"""A connection that is opened again after every drop: whatever has to be done over it is done again until it is done.

What is done must stand being done twice. Pauses between tries grow, and vary where many devices are spoken to at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgekd.targets.ssh_connection import Address, SshKeys, Unreachable, connect

T = TypeVar("T")
_GOES_ON = "a job that runs there goes on: the same command joins it"


class Dropped(Exception):
    """The connection ended before the answer came."""


@dataclass(frozen=True)
class Pauses:
    """How long a silent device is waited for.

    Attributes:
        give_up_s: Seconds without any answer after which it is given up.
        first_wait_s: Pause before the first new try; doubled each time.
        longest_wait_s: Longest pause.
        jitter: Share by which each pause is made longer or shorter at random.
    """

    give_up_s: float = 900.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    jitter: float = 0.0

    def around(self, wait_s: float, chance: random.Random) -> float:
        """Return a pause of about `wait_s`."""
        return wait_s * (1.0 + self.jitter * (2.0 * chance.random() - 1.0))


class Line:
    """The way to one device.

    Args:
        address: Where it answers.
        keys: Trusted host keys and the login's key.
        pauses: How long it is waited for.
        note: Told when the connection is lost and found.
        goes_on: What the error says about work there when the device is given up.
        chance: Where pauses get their randomness from.
    """

    def __init__(
        self,
        address: Address,
        keys: SshKeys,
        pauses: Pauses,
        note: Callable[[str], None],
        *,
        goes_on: str = _GOES_ON,
        chance: random.Random | None = None,
    ) -> None:
        self.address, self._keys, self._pauses, self._note, self._goes_on = address, keys, pauses, note, goes_on
        self._chance = chance or random.Random()  # noqa: S311 - spreads tries, protects nothing
        self._connection: Any = None
        self._last_answer_s = time.monotonic()

    async def open(self) -> Any:
        """Connect with no second try, a device that never answered is an error at once; see `connect`."""
        self._connection = await connect(self.address, self._keys)
        self.heard()
        return self._connection

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abort(self) -> None:
        """Drop the connection without a word, when the other side may no longer read."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def heard(self) -> None:
        """Note that the device has just answered."""
        self._last_answer_s = time.monotonic()

    async def again_after_drops(self, action: Callable[[Any], Awaitable[T]]) -> T:
        """Do something over the connection until it is done, with pauses that grow while there is none.

        Args:
            action: Gets the connection; called again after a drop.

        Returns:
            Its result.

        Raises:
            Unreachable: There was no answer for longer than the pauses allow.
            TargetError: Another host key or a refused login on the way back.
        """
        import asyncssh

        self.heard()
        wait_s = self._pauses.first_wait_s
        while True:
            try:
                result = await action(await self._connected())
            except (Dropped, Unreachable, asyncssh.Error, OSError, asyncio.TimeoutError) as error:
                self.close()
                gone_s = time.monotonic() - self._last_answer_s
                if gone_s > self._pauses.give_up_s:
                    raise Unreachable(
                        f"{self.address.host} has not answered for {gone_s:.0f} s ({error or type(error).__name__}); "
                        f"{self._goes_on}"
                    ) from error
                pause_s = self._pauses.around(wait_s, self._chance)
                self._note(f"no connection, next try in {pause_s:.3g} s")
                await asyncio.sleep(pause_s)
                wait_s = min(2 * wait_s, self._pauses.longest_wait_s)
            else:
                return result

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await connect(self.address, self._keys)  # which is no answer yet
            self._note("connected again")
        return self._connection
