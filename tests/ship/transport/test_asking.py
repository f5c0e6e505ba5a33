"""The agent asked through its socket, which an SSH server forwards."""

import asyncio
import contextlib
import io
import json
import os
import shutil
import socketserver
import tempfile
import threading
import time
from pathlib import Path

import pytest
from edgekd_agent.attend import listening

from edgekd.core.errors import TargetError
from edgekd.ship.transport import AgentPlace, Need, SshTransport, asking
from edgekd.ship.transport.session import BLOCK_BYTES
from edgekd.targets.ssh_connection import Unreachable, connected, parse_address
from edgekd.targets.ssh_line import Pauses

from . import pretended_agent


@pytest.fixture
def short():
    """A folder whose name is short enough for a socket."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def attending(bench, path, seen=None):
    """Let the agent's own listener answer, in front of the pretended agent."""

    def run(words):
        if seen is not None:
            seen.append(list(words))
        plain = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            code = pretended_agent.main(["--root", str(bench.root), *plain])
        return listening.Said(code, out.getvalue(), "")

    with serving(listening.listening(path, run, {os.getuid()})):
        yield


def session(bench, path, **pauses):
    pauses = Pauses(**{"give_up_s": 20.0, "first_wait_s": 0.05, "longest_wait_s": 0.2, **pauses})
    place = AgentPlace(socket=str(path), root=str(bench.root))
    transport = SshTransport(bench.server.keys(bench.wire.port), place, pauses)
    return transport.session(bench.address, bench.notes.append)


def ask(bench, path, *words, **pauses):
    async def work():
        async with session(bench, path, **pauses) as one:
            return await one.agent(*words)

    return asyncio.run(work())


def test_the_agent_answers_and_words_arrive_as_they_are(bench, short):
    seen = []
    with attending(bench, short / "s", seen):
        assert ask(bench, short / "s", "hello").document["device_id"] == "orin-1"
        owner = 'a\'b "c" $(touch /tmp/x); d'
        assert ask(bench, short / "s", "lock", "--owner", owner).exit_code == 0
        refused = ask(bench, short / "s", "lock", "--owner", "bob")
    assert json.loads((bench.root / "operator").read_text())["owner"] == owner
    assert refused.exit_code == 1
    assert "reserved by" in refused.document["error"]["message"]
    assert seen[0] == ["hello"]


def test_what_may_not_be_asked_is_an_answer(bench, short):
    with attending(bench, short / "s"):
        answer = ask(bench, short / "s", "upgrade", "/tmp/x")
    assert answer.exit_code == 2
    assert answer.document["error"]["kind"] == "usage"


def test_a_push_that_is_cut_asks_through_the_socket_what_is_there(bench, short, make_blob):
    sha256, blob = make_blob(2 * BLOCK_BYTES + 5)
    bench.want({sha256: blob})
    bench.wire.trouble.cut_after_bytes = BLOCK_BYTES + 3_000_000

    async def work():
        async with session(bench, short / "s") as one:
            await one.push(blob, Need(sha256, blob.stat().st_size), lambda done, total: None)
            return one.resumed

    with attending(bench, short / "s"):
        resumed = asyncio.run(work())
    assert bench.part(sha256).read_bytes() == blob.read_bytes()
    assert resumed[-1] == (sha256, BLOCK_BYTES)


def test_where_no_agent_listens_it_is_said_after_some_tries(bench, short, monkeypatch):
    monkeypatch.setattr(asking, "_SOCKET_PAUSE_S", 0.01)
    with pytest.raises(TargetError, match="no agent listens .*edgekd fleet provision"):
        ask(bench, short / "absent", "hello")
    assert bench.notes == [], "the connection was not taken for lost"


def test_an_agent_that_is_started_anew_is_waited_for(bench, short, monkeypatch):
    monkeypatch.setattr(asking, "_SOCKET_PAUSE_S", 0.3)
    timer = threading.Timer(0.6, lambda: started.enter_context(attending(bench, short / "s")))
    with contextlib.ExitStack() as started:
        timer.start()
        assert ask(bench, short / "s", "hello").exit_code == 0
        timer.join()


def answering(path, content):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(content)

    return socketserver.ThreadingUnixStreamServer(str(path), Handler)


@pytest.mark.parametrize("content", [b"hello\n", b"[]\n", b'{"exit_code": 0}\n', b'{"exit_code": null}\n'])
def test_what_is_no_agent_is_named(bench, short, content):
    with serving(answering(short / "s", content)), pytest.raises(TargetError, match="is no agent of edgekd"):
        ask(bench, short / "s", "hello")


@pytest.mark.parametrize("content", [b"", b'{"exit_code": 0, "stdout": "{}", "std'])
def test_an_answer_that_is_cut_off_is_asked_for_again(bench, short, content):
    with serving(answering(short / "s", content)), pytest.raises(Unreachable, match="cut off"):
        ask(bench, short / "s", "hello", give_up_s=0.2)
    assert bench.notes


def test_an_answer_without_end_is_cut_off(bench, short, monkeypatch):
    monkeypatch.setattr(asking, "_MAX_ANSWER_BYTES", 1000)
    with serving(answering(short / "s", b"x" * 5000)), pytest.raises(TargetError, match="prints more than"):
        ask(bench, short / "s", "hello")


def test_a_program_that_hangs_there_hangs_nothing_here(bench):
    """OpenSSH confirms the end of a session only when its program has ended; nobody may wait for that."""

    async def work():
        async with connected(parse_address(bench.address), bench.server.keys(bench.wire.port)) as connection:
            await asyncio.wait_for(asking.run_words(connection, ["sleep", "30"]), 0.5)

    began = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(work())
    assert time.monotonic() - began < 10


def said(text, complaint=""):
    return asking.Said(0, text, complaint)


def test_nothing_that_a_terminal_obeys_is_left_of_an_answer():
    text = '{"a":{"b":["\\u001b[31mred\\nfake row\\u0007\\ud800\\u202e"]},"é":1}'
    answer = asking.answer_of(said(text, "one\n\x1b]0;title\x07two"), "h")
    assert answer.document == {"a": {"b": ["\ufffd[31mred fake row\ufffd\ufffd\ufffd"]}, "é": 1}
    assert answer.complaint == "one \ufffd]0;title\ufffdtwo"
    with pytest.raises(TargetError, match="no JSON document: \ufffd"):
        asking.answer_of(said("\x1b[31m"), "h")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a":' * 40 + "1" + "}" * 40])
def test_answer_that_is_nested_without_end_is_the_devices_fault(text):
    with pytest.raises(TargetError, match="no JSON document"):
        asking.answer_of(said(text), "h")
