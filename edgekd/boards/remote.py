"""Verbs of the program on a board, called over a connection that may drop and is opened again.

Everything that runs there is `python3` with arguments quoted by `shlex.join`; no text of a user reaches a shell
unquoted. Every verb may be called twice, so one that was cut off is simply called again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekd.boards.options import Patience
from edgekd.boards.program import BOOTSTRAP, board_program
from edgekd.core.errors import BuildError, StorageError, TargetError
from edgekd.core.events import Event, Listener
from edgekd.targets.ssh_connection import Address, SshKeys, Unreachable
from edgekd.targets.ssh_line import Dropped, Line, Pauses

ROOT = "/"
_MARK = b"EDGEKD-BOARD "
_CALL_S = 240.0
_STALL_S = 60.0
_CHUNK_BYTES = 1 << 17
_TRIES = 20
_SPARE_BYTES = 256 << 20


class Refused(BuildError):
    """The program on the board said no.

    Attributes:
        kind: Its word for the reason (`"disk_full"`).
    """

    def __init__(self, where: str, document: dict[str, Any]) -> None:
        super().__init__(f"{where}: {document['message']}")
        self.kind = str(document["kind"])


class Board:
    """A board and the program on it.

    Args:
        address: Where it answers.
        keys: Trusted host keys and the login's key.
        patience: How long to wait for it.
        listener: Told when the connection is lost and found.
    """

    def __init__(self, address: Address, keys: SshKeys, patience: Patience, listener: Listener) -> None:
        self.address, self._patience, self._listener = address, patience, listener
        pauses = Pauses(patience.give_up_s, patience.first_wait_s, patience.longest_wait_s)
        self._line = Line(address, keys, pauses, self._note)
        self._program = ""

    async def open(self) -> None:
        """Connect and leave the program there; no second try, a board that never answered is an error at once."""
        import asyncssh

        connection = await self._line.open()
        program = board_program()
        command = ["python3", "-c", BOOTSTRAP, program.sha256]
        try:
            answer = await _answer_of(connection, command, program.content)
        except (Dropped, asyncssh.Error, OSError, asyncio.TimeoutError) as error:
            raise Unreachable(f"{self.address.host} dropped the connection: {error or type(error).__name__}") from error
        if "python" in answer:
            raise TargetError(
                f"{self.address.host} has Python {answer['python']}; building there needs 3.8 (JetPack 5) or newer"
            )
        if not answer.get("program"):
            raise Unreachable(f"{self.address.host}: the program for the board was damaged on its way")
        self._program = answer["program"]

    def close(self) -> None:
        """Close the connection; jobs go on."""
        self._line.close()

    async def call(self, verb: str, *arguments: str, stdin: bytes = b"") -> dict[str, Any]:
        """Call a verb, again after every drop.

        Args:
            verb: Its name.
            arguments: Its arguments.
            stdin: What it reads.

        Returns:
            Its answer.

        Raises:
            Refused: It said no.
            Unreachable: The board is gone for longer than patience lasts.
            TargetError: Another host key or a refused login on the way back.
        """

        async def action(connection: Any) -> dict[str, Any]:
            return await _answer_of(connection, [*self._tool(), verb, *arguments], stdin)

        answer = await self._line.again_after_drops(action)
        if "error" in answer:
            raise Refused(self.address.host, answer["error"])
        return answer

    async def send(self, file: Path, sha256: str, report: Callable[[int, int], None]) -> None:
        """Send a file by its digest; after a drop it goes on where it stopped.

        Args:
            file: What to send.
            sha256: Its digest.
            report: Told bytes there and bytes in all.

        Raises:
            Refused: The disk is full, or it arrives damaged.
            BuildError: Another process there writes the same file.
            Unreachable: See `call`.
        """
        size, damaged = file.stat().st_size, 0

        async def action(connection: Any) -> bool:
            nonlocal damaged
            held = await _answer_of(connection, [*self._tool(), "held", sha256], b"")
            if held["is_complete"]:
                return True
            offset = int(held["size_bytes"]) if held["size_bytes"] <= size else 0
            command = [*self._tool(), "receive", sha256, str(size), str(offset)]
            answer = await self._stream(connection, command, file, lambda done: report(done, size))
            kind = answer.get("error", {}).get("kind")
            if kind == "digest" and not damaged:  # what was there from before was wrong: once more from the start
                damaged += 1
            elif kind not in (None, "offset", "busy"):
                raise Refused(self.address.host, answer["error"])
            return bool(answer.get("is_complete"))

        for _ in range(_TRIES):
            if await self._line.again_after_drops(action):
                report(size, size)
                return
            await asyncio.sleep(self._patience.first_wait_s)
        raise BuildError(
            f"{file.name} cannot be sent to {self.address.host}: something else writes it there, try again"
        )

    async def read(self, digest: str, files: Sequence[tuple[str, str]], target: Path) -> None:
        """Bring results of a job here; after a drop it goes on where it stopped.

        Args:
            digest: The job.
            files: Folder there and name of each.
            target: Folder here.

        Raises:
            BuildError: A name that the board gave would lie outside the folder.
            Refused: One is not there.
            StorageError: What the board is about to send is more than the disk here holds.
            Unreachable: See `call`.
        """
        outside = [name for _, name in files if name in ("", "..") or Path(name).name != name]
        if outside:
            raise BuildError(f"{self.address.host} names a result {outside[0]!r}, which is no plain file name")
        missing = list(files)
        for _, name in files:
            (target / name).touch()

        async def action(connection: Any) -> None:
            places = [(folder, name, str((target / name).stat().st_size)) for folder, name in missing]
            command = [*self._tool(), "read", digest, *itertools.chain.from_iterable(places)]
            process = await connection.create_process(shlex.join(command), encoding=None)
            try:
                for file in list(missing):
                    answer = await asyncio.wait_for(_marked_line(process), _CALL_S)
                    if "error" in answer:
                        raise Refused(self.address.host, answer["error"])
                    rest_bytes = int(answer["rest_bytes"])
                    self._require_room(target / file[1], rest_bytes)
                    await self._append(target / file[1], process.stdout, rest_bytes)
                    missing.remove(file)
            finally:
                process.close()  # not waited for: OpenSSH confirms only once the program there has ended

        if missing:
            await self._line.again_after_drops(action)

    async def _stream(
        self, connection: Any, command: list[str], file: Path, report: Callable[[int], None]
    ) -> dict[str, Any]:
        process = await connection.create_process(shlex.join(command), encoding=None)
        done = int(command[-1])
        try:
            with open(file, "rb") as stream:
                stream.seek(done)
                while block := stream.read(_CHUNK_BYTES):
                    process.stdin.write(block)
                    await asyncio.wait_for(process.stdin.drain(), _STALL_S)
                    done += len(block)
                    self._line.heard()
                    report(done)
            process.stdin.write_eof()
        except (BrokenPipeError, ConnectionError):
            pass  # it stopped reading: its answer says why, or there is none and the connection is gone
        try:
            return await asyncio.wait_for(_marked_line(process), _CALL_S)
        finally:
            process.close()

    def _require_room(self, file: Path, rest_bytes: int) -> None:
        free = shutil.disk_usage(file.parent).free
        if not 0 <= rest_bytes <= free - _SPARE_BYTES:
            raise StorageError(
                f"{self.address.host} has {rest_bytes} bytes of {file.name} to send, and {free} are free in "
                f"{file.parent}, of which {_SPARE_BYTES} stay free: make room, then run the same command again"
            )

    async def _append(self, target: Path, source: Any, size_bytes: int) -> None:
        with open(target, "ab") as stream:
            while size_bytes > 0:
                block = await asyncio.wait_for(source.read(min(size_bytes, _CHUNK_BYTES)), _STALL_S)
                if not block:
                    raise Dropped("it was cut off")
                stream.write(block)
                size_bytes -= len(block)
                self._line.heard()

    def _tool(self) -> list[str]:
        return ["python3", self._program, ROOT]

    def _note(self, message: str) -> None:
        self._listener(Event("note", self.address.host, message))


async def _answer_of(connection: Any, command: list[str], stdin: bytes) -> dict[str, Any]:
    done = await asyncio.wait_for(connection.run(shlex.join(command), input=stdin, encoding=None, check=False), _CALL_S)
    for line in reversed(bytes(done.stdout or b"").splitlines()):
        if line.startswith(_MARK):
            answer: dict[str, Any] = json.loads(line[len(_MARK) :])
            return answer
    raise _no_answer(done.exit_status, bytes(done.stderr or b""))


async def _marked_line(process: Any) -> dict[str, Any]:
    while line := await process.stdout.readline():
        if line.startswith(_MARK):
            answer: dict[str, Any] = json.loads(line[len(_MARK) :])
            return answer
    raise _no_answer(process.exit_status, await process.stderr.read())


def _no_answer(exit_status: int | None, complaint: bytes) -> Exception:
    if exit_status is None:
        return Dropped("it was cut off")
    last = complaint.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit status {exit_status}"]
    hint = "; the board needs python3" if exit_status == 127 else ""
    return TargetError(f"the program on the board failed: {last[0]}{hint}")
