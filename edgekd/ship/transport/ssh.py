"""Sessions over SSH: SFTP into a device's staging, and the agent's commands.

The login needs neither a shell nor a program on the device: its SSH server shows it staging and forwards the agent's
socket, nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgekd.core.errors import TargetError
from edgekd.ship.transport.answers import needs_from
from edgekd.ship.transport.asking import answer_of, ask_socket, run_words
from edgekd.ship.transport.push import Course, write_blob, write_small
from edgekd.ship.transport.session import Answer, Need, Session
from edgekd.targets.ssh_connection import SshKeys, parse_address
from edgekd.targets.ssh_line import Dropped, Line, Pauses

T = TypeVar("T")
_CALL_S = 300.0
_GOES_ON = "an install that runs there goes on; the same command finds what became of it"
_METADATA, _BLOBS = PurePosixPath("staging/metadata"), PurePosixPath("staging/blobs")


@dataclass(frozen=True)
class AgentPlace:
    """Where a login finds the agent and its staging.

    Attributes:
        socket: Where it listens.
        root: Folder that holds `staging`, as the login sees it; also the agent's data folder where `command` is given.
        command: Words that start it, where it does not listen and the login is the agent's own user.
    """

    socket: str = "edgekd-agent"
    root: str = "/"
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class SshTransport:
    """Opens sessions over SSH.

    Attributes:
        keys: Trusted host keys and the login's key.
        place: Where the agent is.
        pauses: How long a device that stopped answering is waited for.
        chance: Where pauses get their randomness from.
    """

    keys: SshKeys = field(default_factory=SshKeys)
    place: AgentPlace = field(default_factory=AgentPlace)
    pauses: Pauses = field(default_factory=lambda: Pauses(give_up_s=300.0, jitter=0.3))
    chance: random.Random | None = None

    @asynccontextmanager
    async def session(self, address: str, note: Callable[[str], None]) -> AsyncIterator[Session]:
        """Open a session; see `Transport`."""
        line = Line(parse_address(address), self.keys, self.pauses, note, goes_on=_GOES_ON, chance=self.chance)
        await line.open()
        try:
            yield SshSession(line, self.place)
        finally:
            line.close()


class SshSession:
    """A session over a line that is opened again after every drop; see `Session`.

    Args:
        line: The open line.
        place: Where the agent is.
    """

    def __init__(self, line: Line, place: AgentPlace) -> None:
        self._line, self._place = line, place
        self.resumed: list[tuple[str, int]] = []

    async def agent(self, *words: str) -> Answer:
        """Run a command of the agent."""
        return await self._line.again_after_drops(lambda connection: self._answer(connection, words))

    async def put_metadata(self, files: Mapping[str, Path]) -> None:
        """Leave metadata files in staging."""

        async def action(connection: Any) -> None:
            async with connection.start_sftp_client() as sftp:
                for name, source in files.items():
                    await write_small(sftp, source, _inside(self._staging(_METADATA), name), self._course())

        await self._refusable(action, "metadata")

    async def push(self, blob: Path, need: Need, report: Callable[[int, int], None]) -> None:
        """Leave a blob in staging; after a drop the device is asked again what it has."""
        target = _inside(self._staging(_BLOBS), f"{need.sha256}.part")
        fresh: Need | None = need

        course = self._course(lambda done: report(done, need.size_bytes))

        async def action(connection: Any) -> None:
            nonlocal fresh
            lacking = fresh or await self._lacking(connection, need)
            fresh = None
            if lacking is None:
                return
            async with connection.start_sftp_client() as sftp:
                self.resumed.append((need.sha256, await write_blob(sftp, blob, target, lacking, course)))

        await self._refusable(action, blob.name)

    def _course(self, report: Callable[[int], None] = lambda done: None) -> Course:
        def told(done: int) -> None:
            self._line.heard()
            report(done)

        return Course(told, self._line.abort)

    async def _lacking(self, connection: Any, need: Need) -> Need | None:
        answer = await self._answer(connection, ("want",))
        if answer.exit_code:
            raise TargetError(f"{self._line.address.host}: {answer.document or answer.complaint}")
        return next((one for one in needs_from(answer.document, self._host) if one.sha256 == need.sha256), None)

    async def _refusable(self, action: Callable[[Any], Awaitable[T]], what: str) -> T:
        import asyncssh

        async def told(connection: Any) -> T:
            try:
                return await action(connection)
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
                raise Dropped(str(error)) from error
            except asyncssh.SFTPError as error:
                raise TargetError(
                    f"{self._host} refuses {what}: {error.reason or type(error).__name__}; see that its staging "
                    "is there, may be written by the login, and has space: edgekd fleet provision makes it"
                ) from error

        return await self._line.again_after_drops(told)

    async def _answer(self, connection: Any, words: tuple[str, ...]) -> Answer:
        if self._place.command:
            command = [*self._place.command, "--root", self._place.root, *words, "--json"]
            asking = run_words(connection, command)
        else:
            asking = ask_socket(connection, self._place.socket, words, self._host)
        said = await asyncio.wait_for(asking, _CALL_S)
        self._line.heard()
        return answer_of(said, self._host)

    @property
    def _host(self) -> str:
        return str(self._line.address.host)

    def _staging(self, folder: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(self._place.root) / folder


def _inside(folder: PurePosixPath, name: str) -> PurePosixPath:
    """Return a place in a folder of the device; a name that would leave it is a fault of the caller."""
    if name != PurePosixPath(name).name or name in ("", ".", ".."):
        raise TargetError(f"{name!r} is no plain file name; the repository is damaged")
    return folder / name
