"""The socket: who may ask, what becomes of a command, and of those who ask badly."""

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import threading
import time

import pytest
import real_device
from edgekd_agent.attend import listening
from edgekd_agent.errors import AgentError

ME = {os.getuid()}


@contextlib.contextmanager
def attending(path, run=lambda words: listening.Said(0, " ".join(words), ""), allowed=ME):
    server = listening.listening(path, run, allowed)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield path
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sent(path, content: bytes, *, is_ended: bool = True) -> dict:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(content)
        if is_ended:
            client.shutdown(socket.SHUT_WR)
        return json.loads(client.makefile("rb").read())


def asked(path, *words) -> dict:
    return sent(path, json.dumps({"schema_version": 1, "words": words}).encode() + b"\n")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.sock"


def test_what_is_asked_is_run_and_what_it_said_comes_back(path) -> None:
    with attending(path):
        said = asked(path, "lock", "--owner", "ann")
    assert said == {"schema_version": 1, "exit_code": 0, "stdout": "lock --owner=ann", "stderr": ""}


def test_the_socket_is_for_its_owner_and_group(path) -> None:
    with attending(path):
        assert path.stat().st_mode & 0o777 == 0o660


def test_what_is_not_allowed_is_not_run(path) -> None:
    ran = []
    with attending(path, ran.append):
        said = asked(path, "upgrade", "/tmp/x")
    assert ran == []
    assert said["exit_code"] == 2
    assert json.loads(said["stdout"])["error"]["kind"] == "usage"


def test_who_is_not_known_may_not_ask(path) -> None:
    ran = []
    with attending(path, ran.append, {os.getuid() + 1}):
        said = asked(path, "hello")
    assert ran == []
    assert said["exit_code"] == 2
    assert f"user {os.getuid()} may not ask" in said["stderr"]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"y" * (20 << 10)])
def test_no_line_is_refused(path, content) -> None:
    with attending(path):
        said = sent(path, content, is_ended=len(content) < 200)
    assert "no line" in said["stderr"]


def test_who_says_nothing_keeps_nobody_else_waiting(path, monkeypatch) -> None:
    monkeypatch.setattr(listening, "_READ_S", 0.2)
    with attending(path), contextlib.ExitStack() as stack:
        for _ in range(12):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
        assert asked(path, "hello")["exit_code"] == 0


def test_a_command_ends_though_nobody_waits_for_it(path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def run(words):
        begun.set()
        time.sleep(0.2)
        ended.set()
        return listening.Said(0, "x" * 100_000, "")

    with attending(path, run):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b'{"schema_version":1,"words":["gc"]}\n')
            assert begun.wait(10)
        assert ended.wait(10)
        assert len(asked(path, "hello")["stdout"]) == 100_000


def test_a_command_that_hangs_is_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(listening, "_ASKING_S", 0.2)
    monkeypatch.setattr(listening, "_MAIN", "import time; time.sleep(60)")
    began = time.monotonic()
    said = listening.command(tmp_path, ["hello"])
    assert said.exit_code == 1
    assert "longer than 0.2 s" in said.stderr
    assert time.monotonic() - began < 20


def test_a_socket_that_is_in_use_is_not_taken_away(path) -> None:
    with attending(path):
        with pytest.raises(AgentError, match="in use"):
            listening.listening(path, lambda words: listening.Said(0, "", ""), ME)
        assert asked(path, "hello")["exit_code"] == 0


def test_the_socket_of_a_killed_server_is_replaced(path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with attending(path):
        assert asked(path, "hello")["exit_code"] == 0


def test_a_user_who_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(AgentError, match="no user nobody-of-that-name"):
        listening.run(tmp_path, tmp_path / "s", "nobody-of-that-name")


def test_the_command_attend_answers_for_a_device_and_ends_when_it_is_told(tmp_path) -> None:
    """A real agent behind the real socket, to its end."""
    path, root = tmp_path / "s", tmp_path / "device"
    (root / "trust").mkdir(parents=True)
    identity = {"schema_version": 1, "device_id": "robot-7", "group": "canary", "selector": {}}
    (root / "device.json").write_text(json.dumps(identity))
    words = ("attend", "--socket", str(path), "--user", pwd.getpwuid(os.getuid()).pw_name)
    server = subprocess.Popen(real_device.command(root, *words), env=real_device.ENVIRONMENT)
    try:
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        said = asked(path, "hello")
        assert json.loads(said["stdout"])["device_id"] == "robot-7"
        assert asked(path, "rollback")["exit_code"] == 5
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert not path.exists()
