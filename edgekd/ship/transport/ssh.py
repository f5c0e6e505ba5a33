"""Sessions over SSH: the agent's commands, and SFTP into its staging.

Commands are lists of words quoted by `shlex.join`, so a forced command on the device can check them. What the device
prints is read up to a limit.
"""

from __future__ import annotations

import asyncio
import json
import random
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgekd.core.errors import TargetError
from edgekd.ship.transport.answers import needs_from
from edgekd.ship.transport.push import Course, write_blob, write_small
from edgekd.ship.transport.session import Answer, Need, Session
from edgekd.targets.ssh_connection import SshKeys, parse_address
from edgekd.targets.ssh_line import Dropped, Line, Pauses

T = TypeVar("T")
_CALL_S = 300.0
_MAX_ANSWER_BYTES = 4 << 20
_NOT_FOUND = (126, 127)
_GOES_ON = "an install that runs there goes on; the same command finds what became of it"
_METADATA, _BLOBS = PurePosixPath("staging/metadata"), PurePosixPath("staging/blobs")


@dataclass(frozen=True)
class AgentPlace:
    """Where the agent and its data are on a device.

    Attributes:
        command: Words that start it.
        root: Its data folder.
    """

    command: tuple[str, ...] = ("python3", "/opt/edgekd/agent/edgekd-agent.pyz")
    root: str = "/var/lib/edgekd"


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
                    f"{self._host} refuses {what}: {error.reason or type(error).__name__}; see that "
                    f"{self._place.root}/staging exists there, belongs to the login, and has space"
                ) from error

        return await self._line.again_after_drops(told)

    async def _answer(self, connection: Any, words: tuple[str, ...]) -> Answer:
        command = [*self._place.command, "--root", self._place.root, *words, "--json"]
        answer = await asyncio.wait_for(run_words(connection, command), _CALL_S)
        self._line.heard()
        return answer_of(answer, self._host)

    @property
    def _host(self) -> str:
        return str(self._line.address.host)

    def _staging(self, folder: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(self._place.root) / folder


@dataclass(frozen=True)
class Said:
    """How a program on a device ended.

    Attributes:
        exit_code: What it ended with.
        stdout: What it printed.
        stderr: What it complained of.
    """

    exit_code: int
    stdout: str
    stderr: str


async def run_words(connection: Any, words: list[str]) -> Said:
    """Run a program on the device.

    Args:
        connection: The asyncssh connection.
        words: Program and arguments.

    Returns:
        How it ended.

    Raises:
        Dropped: The connection ended before it did.
        TargetError: It prints without end.
    """
    async with connection.create_process(shlex.join(words), encoding=None) as process:
        process.stdin.write_eof()
        stdout, stderr = await asyncio.gather(_limited(process.stdout), _limited(process.stderr))
        await process.wait_closed()
        if process.exit_status is None or process.exit_status < 0:
            raise Dropped("it was cut off")
        return Said(process.exit_status, stdout, stderr)


async def _limited(stream: Any) -> str:
    content = b""
    while block := await stream.read(1 << 16):
        content += block
        if len(content) > _MAX_ANSWER_BYTES:
            raise TargetError(f"a device prints more than {_MAX_ANSWER_BYTES} bytes as an answer")
    return content.decode("utf-8", "replace")


def answer_of(said: Said, host: str) -> Answer:
    """Read the agent's one document, behind whatever a login prints first.

    Raises:
        TargetError: There is no agent, or no document.
    """
    complaint = "\n".join(said.stderr.strip().splitlines()[-4:])
    if said.exit_code in _NOT_FOUND:
        raise TargetError(f"{host} has no agent ({complaint}); edgekd fleet provision installs it")
    text = said.stdout
    start = 0 if text.startswith("{") else text.find("\n{") + 1
    try:
        document = json.loads(text[start:])
    except ValueError as error:
        shown = complaint or text.strip()[-200:] or "nothing"
        raise TargetError(f"{host}: the agent ended with {said.exit_code} and no JSON document: {shown}") from error
    if not isinstance(document, dict):
        raise TargetError(f"{host}: the agent printed a {type(document).__name__}, not an object")
    return Answer(said.exit_code, document, complaint)


def _inside(folder: PurePosixPath, name: str) -> PurePosixPath:
    """Return a place in a folder of the device; a name that would leave it is a fault of the caller."""
    if name != PurePosixPath(name).name or name in ("", ".", ".."):
        raise TargetError(f"{name!r} is no plain file name; the repository is damaged")
    return folder / name
