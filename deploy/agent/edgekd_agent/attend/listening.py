"""Answers on the socket: who asks is known from the kernel, each command is a process of its own.

A command goes on to its end when whoever asked is gone. It gets nothing from them but its words: no environment, no
open files, no limits, no working folder.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd_agent import durable
from edgekd_agent.attend.words import MAX_REQUEST_BYTES, is_long, words_of
from edgekd_agent.engine.child import program_path
from edgekd_agent.errors import AgentError
from edgekd_agent.sockets import BoundedThreads, remove_dead

_READ_S = 10.0
_WRITE_S = 60.0
_ASKING_S = 600.0
_LONG_S = 4 * 3600.0
_ENDED = "the command took longer than {:g} s and was stopped"
_MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edgekd_agent.__main__ import main; sys.exit(main())"


@dataclass(frozen=True)
class Said:
    """How a command ended.

    Attributes:
        exit_code: Its exit code.
        stdout: What it printed.
        stderr: What it complained of.
    """

    exit_code: int
    stdout: str
    stderr: str


Run = Callable[[Sequence[str]], Said]


def run(root: Path, path: Path, user: str) -> None:
    """Answer until the process is asked to end; commands under way go on.

    Args:
        root: The agent's folder.
        path: Where the socket is made; its folder's group may use it.
        user: Who may ask, beside root and the agent itself.

    Raises:
        AgentError: There is no such user, or the socket cannot be made.
    """
    allowed = {0, os.getuid(), _number_of(user)}
    server = listening(path, lambda words: command(root, words), allowed)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    try:
        server.serve_forever(0.5)
    finally:
        server.server_close()
        durable.remove(path)


def command(root: Path, words: Sequence[str]) -> Said:
    """Run a command of the agent that is installed now, in a process of its own."""
    limit_s = _LONG_S if is_long(words) else _ASKING_S
    arguments = [sys.executable, "-I", "-c", _MAIN, str(program_path()), "--root", str(root), *words, "--json"]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return refused(AgentError("failed", _ENDED.format(limit_s)))
    return Said(process.returncode, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"))


def refused(error: AgentError) -> Said:
    """Return a refusal in the form of a command's own."""
    document = {"schema_version": 1, "error": {"kind": error.kind, "message": error.message}}
    return Said(error.exit_code, json.dumps(document), error.message)


def listening(path: Path, run_command: Run, allowed: set[int]) -> socketserver.BaseServer:
    """Return a server on a Unix socket that its folder's group may use.

    Args:
        path: The socket.
        run_command: Runs the words of a command.
        allowed: Numbers of the users who may ask.

    Raises:
        AgentError: The socket cannot be made.
    """
    before = os.umask(0o117)
    try:
        remove_dead(path)
        return _Listener(path, run_command, allowed)
    except OSError as error:
        raise AgentError("precondition", f"no socket at {path}: {error.strerror or error}") from error
    finally:
        os.umask(before)


class _Listener(BoundedThreads, socketserver.UnixStreamServer):
    """One command a connection."""

    places = threading.BoundedSemaphore(8)
    request_queue_size = 32

    def __init__(self, path: Path, run_command: Run, allowed: set[int]) -> None:
        self.run_command, self.allowed = run_command, allowed
        super().__init__(str(path), socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        del client_address
        request.settimeout(_READ_S)
        said = self._answer(request)
        request.settimeout(_WRITE_S)
        request.sendall(json.dumps({"schema_version": 1, **vars(said)}).encode() + b"\n")

    def _answer(self, request: socket.socket) -> Said:
        try:
            line = _line(request)
            _require_allowed(request, self.allowed)
            words = words_of(line)
        except AgentError as error:
            return refused(error)
        return self.run_command(words)


def _require_allowed(request: socket.socket, allowed: set[int]) -> None:
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if user not in allowed:
        raise AgentError("usage", f"user {user} may not ask this agent")


def _line(request: socket.socket) -> bytes:
    """Read one line of bounded length."""
    content = b""
    while b"\n" not in content:
        block = request.recv(MAX_REQUEST_BYTES)
        content += block
        if not block or len(content) > MAX_REQUEST_BYTES:
            raise AgentError("usage", f"the request is no line of at most {MAX_REQUEST_BYTES} bytes")
    return content.partition(b"\n")[0]


def _number_of(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise AgentError("precondition", f"there is no user {user}; provision the device again") from error
