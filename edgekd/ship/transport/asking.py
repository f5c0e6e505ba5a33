"""The two ways to ask a device's agent over a connection: through its socket, or by starting its program.

The socket takes one line with the words of a command and gives one document back. A program gets its words quoted by
`shlex.join`. What the device says is read up to a limit, and nothing that a terminal obeys is left of it.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.core.errors import TargetError
from edgekd.ship.transport.session import Answer
from edgekd.targets.ssh_line import Dropped

_MAX_ANSWER_BYTES = 4 << 20
_MAX_DEPTH = 32
_NO_DOCUMENT = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
_NOT_FOUND = (126, 127)
_SOCKET_TRIES = 5
_SOCKET_PAUSE_S = 1.0


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
    process = await connection.create_process(shlex.join(words), encoding=None)
    try:
        process.stdin.write_eof()
        stdout, stderr = await asyncio.gather(_limited(process.stdout), _limited(process.stderr))
        await process.wait_closed()
    finally:
        process.close()  # not waited for: OpenSSH confirms only once the program there has ended
    if process.exit_status is None or process.exit_status < 0:
        raise Dropped("it was cut off")
    return Said(process.exit_status, stdout, stderr)


async def ask_socket(connection: Any, path: str, words: Sequence[str], host: str) -> Said:
    """Ask the agent through its socket.

    Args:
        connection: The asyncssh connection.
        path: The socket, as the login sees it.
        words: A command of the agent and its arguments.
        host: The device's name, for errors.

    Returns:
        How the command ended.

    Raises:
        Dropped: The connection ended before the answer came.
        TargetError: No agent listens there, or its answer has another form.
    """
    reader, writer = await _opened_socket(connection, path, host)
    try:
        writer.write(json.dumps({"schema_version": 1, "words": list(words)}).encode() + b"\n")
        text = await _limited(reader)
    finally:
        writer.close()
    if not text.endswith("\n"):
        raise Dropped("it was cut off")
    try:
        document = json.loads(text)
        return Said(int(document["exit_code"]), str(document["stdout"]), str(document["stderr"]))
    except _NO_DOCUMENT as error:
        raise TargetError(f"{host}: what listens at {path} is no agent of edgekd: {_one_line(text[:200])}") from error


async def _opened_socket(connection: Any, path: str, host: str) -> tuple[Any, Any]:
    """Open the agent's socket, some times more while the agent is being started anew."""
    import asyncssh

    tries = 0
    while True:
        try:
            return await connection.open_unix_connection(path, encoding=None)  # type: ignore[no-any-return]
        except asyncssh.ChannelOpenError as error:
            tries += 1
            if connection.is_closed():
                raise Dropped(str(error)) from error
            if tries == _SOCKET_TRIES:
                raise TargetError(
                    f"{host}: no agent listens for this login; on the device: systemctl status edgekd-attend. For a "
                    "device of an earlier edgekd: edgekd fleet provision"
                ) from error
        await asyncio.sleep(_SOCKET_PAUSE_S)


async def _limited(stream: Any) -> str:
    content = b""
    while block := await stream.read(1 << 16):
        content += block
        if len(content) > _MAX_ANSWER_BYTES:
            raise TargetError(f"a device prints more than {_MAX_ANSWER_BYTES} bytes as an answer")
    return content.decode("utf-8", "replace")


def answer_of(said: Said, host: str) -> Answer:
    """Read the agent's one document, behind whatever a login prints first; its texts are of one line each.

    Raises:
        TargetError: There is no agent, or no document.
    """
    complaint = _one_line("\n".join(said.stderr.strip().splitlines()[-4:]))
    if said.exit_code in _NOT_FOUND:
        raise TargetError(f"{host} has no agent ({complaint}); edgekd fleet provision installs it")
    text = said.stdout
    start = 0 if text.startswith("{") else text.find("\n{") + 1
    try:
        document = _in_lines(json.loads(text[start:]))
    except _NO_DOCUMENT as error:
        shown = complaint or _one_line(text.strip()[-200:]) or "nothing"
        raise TargetError(f"{host}: the agent ended with {said.exit_code} and no JSON document: {shown}") from error
    if not isinstance(document, dict):
        raise TargetError(f"{host}: the agent printed a {type(document).__name__}, not an object")
    return Answer(said.exit_code, document, complaint)


def _in_lines(value: Any, depth: int = 0) -> Any:
    """Return plain data with every text of it on one line; raises `ValueError` when it is nested too deeply."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, dict):
        return {_one_line(key): _in_lines(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_lines(item, depth + 1) for item in value]
    return _one_line(value) if isinstance(value, str) else value


def _one_line(text: str) -> str:
    """Return a text without control characters, changes of direction and halves of characters; breaks become blanks."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
