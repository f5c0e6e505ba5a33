"""A board asked over SSH: a fake one, and a real SSH server of this process with host keys and logins."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekd.core.errors import ConfigError, DataError, PreconditionError, TargetError
from edgekd.targets.ssh_connection import Address, parse_address, trust
from edgekd.targets.ssh_probe import COMMANDS, Answer, ask, probe

CONF = """\
< POWER_MODEL ID=0 NAME=MAXN >
TPC_POWER_GATING TPC_PG_MASK 240
GPU MAX_FREQ -1
EMC MAX_FREQ 0
< POWER_MODEL ID=2 NAME=15W >
TPC_POWER_GATING TPC_PG_MASK 252
GPU MAX_FREQ 612000000
EMC MAX_FREQ 2133000000
"""
GPU = (
    "name=Orin\nmemory_bytes=16136011776\nsm=87\nsms=4\nclock_khz=612000\nl2_bytes=2097152\nintegrated=1\n"
    "memory_khz=612000\nbus_bits=128\n"
)
ORIN_NX = {
    "gpu": Answer(GPU, "", 0),
    "release": Answer("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n", "", 0),
    "mode": Answer("NV Power Mode: 15W\n2\n", "", 0),
    "status": Answer("pmode:0002\n", "", 0),
    "conf": Answer(CONF, "", 0),
}


class FakeShell:
    """Answers the fixed commands and nothing else."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = {COMMANDS[what]: answer for what, answer in answers.items()}

    async def run(self, command: str) -> Answer:
        return self.answers[command]


def asked(**changes: Answer):
    return asyncio.run(ask(FakeShell({**ORIN_NX, **changes}), "the bench"))


def test_every_answer_is_used() -> None:
    known = asked()
    assert (known.gpu.sm, known.gpu.sms, known.gpu.clock_mhz) == (87, 4, 612)
    assert (known.mode, known.l4t, known.seen_by) == ("15W", "36.4.3", "the bench")
    assert [mode.name for mode in known.modes] == ["MAXN", "15W"]


def test_mode_that_only_root_may_ask_for_is_read_from_the_boards_own_files() -> None:
    assert asked(mode=Answer("", "must be root", 1)).mode == "15W"
    assert asked(mode=Answer("", "", 1), status=Answer("pmode:0000\n", "", 0)).mode == "MAXN"
    assert asked(mode=Answer("", "", 1), status=Answer("", "", 1)).mode is None


def test_a_computer_that_is_no_jetson_has_no_modes() -> None:
    none = Answer("", "not found", 127)
    known = asked(release=none, mode=none, status=none, conf=none)
    assert (known.mode, known.modes, known.l4t) == (None, (), None)


def test_a_computer_without_a_gpu_says_why() -> None:
    with pytest.raises(DataError, match="the bench does not show a CUDA GPU: OSError: libcuda.so.1"):
        asked(gpu=Answer("", "Traceback\nOSError: libcuda.so.1: cannot open shared object file", 1))


def test_commands_only_read() -> None:
    for command in COMMANDS.values():
        assert command.split()[0] in ("cat", "nvpmodel", "python3")
        assert " > " not in command
        assert "sudo" not in command
    assert COMMANDS["mode"] == "nvpmodel -q"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("nvidia@192.168.1.20", Address("192.168.1.20", "nvidia")),
        ("orin", Address("orin")),
        ("nvidia@orin.local:2222", Address("orin.local", "nvidia", 2222)),
        ("nvidia@[fe80::1]:22", Address("fe80::1", "nvidia", 22)),
    ],
)
def test_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "a b", "user@", "-oProxyCommand=x", "u@h:99999", "u@h:0", "u@h;reboot"])
def test_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--device"):
        parse_address(text)


def test_asyncssh_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "asyncssh", None)
    with pytest.raises(PreconditionError, match=r"edgekd\[ssh\]"):
        probe(Address("nowhere"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Run an SSH server on this machine that answers like the Orin NX above."""
    asyncssh = pytest.importorskip("asyncssh")
    folder: Path = tmp_path_factory.mktemp("ssh")
    host_key, user_key, stranger = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(3))
    for name, key in (("user", user_key), ("stranger", stranger)):
        key.write_private_key(str(folder / name))
    (folder / "authorized_keys").write_bytes(user_key.export_public_key())
    answers = {COMMANDS[what]: answer for what, answer in ORIN_NX.items()}

    def handle(process) -> None:
        answer = answers.get(process.command, Answer("", "unexpected command", 127))
        process.stdout.write(answer.stdout)
        process.stderr.write(answer.stderr)
        process.exit(answer.exit_status)

    started, state = threading.Event(), SimpleNamespace(loop=asyncio.new_event_loop())

    async def start() -> None:
        state.listener = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(folder / "authorized_keys"),
            process_factory=handle,
        )
        started.set()

    def serve() -> None:
        asyncio.set_event_loop(state.loop)
        state.loop.run_until_complete(start())
        state.loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(20)
    port = state.listener.get_port()
    for name, key in (("known", host_key), ("other", stranger)):
        line = f"[127.0.0.1]:{port} ".encode() + key.export_public_key()
        (folder / name).write_bytes(line)
    (folder / "empty").write_text("")
    yield SimpleNamespace(
        folder=folder,
        address=Address("127.0.0.1", "nvidia", port),
        fingerprint=host_key.get_fingerprint(),
        strangers_fingerprint=stranger.get_fingerprint(),
    )
    state.loop.call_soon_threadsafe(state.loop.stop)
    thread.join(20)


def test_a_board_is_asked_over_real_ssh(server: SimpleNamespace) -> None:
    known = probe(server.address, known_hosts=server.folder / "known", identity=server.folder / "user")
    expected = asyncio.run(ask(FakeShell(ORIN_NX), "127.0.0.1"))
    assert known == expected


def ask_with(server: SimpleNamespace, hosts: str):
    return probe(server.address, known_hosts=server.folder / hosts, identity=server.folder / "user")


def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_the_command_that_accepts_it(server, tmp_path) -> None:
    with pytest.raises(TargetError, match=r"127\.0\.0\.1: its host key is not one you trust") as refusal:
        ask_with(server, "empty")
    command = f"edgekd targets trust nvidia@127.0.0.1:{server.address.port} {server.fingerprint}"
    assert command in str(refusal.value)
    kept = trust(server.address, server.fingerprint, known_hosts=tmp_path / "kept")
    assert probe(server.address, known_hosts=kept, identity=server.folder / "user").l4t == "36.4.3"
    before = kept.read_text()
    trust(server.address, server.fingerprint, known_hosts=kept)
    assert kept.read_text() == before


def test_a_host_key_that_changed_is_refused_loudly(server) -> None:
    with pytest.raises(TargetError, match=r"THE HOST KEY OF 127\.0\.0\.1 HAS CHANGED") as refusal:
        ask_with(server, "other")
    assert server.fingerprint in str(refusal.value)
    assert server.strangers_fingerprint in str(refusal.value)


def test_a_fingerprint_that_is_not_the_boards_accepts_nothing(server, tmp_path) -> None:
    with pytest.raises(TargetError, match="nothing was accepted"):
        trust(server.address, server.strangers_fingerprint, known_hosts=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_keys_of_edgekds_own_file_are_trusted_too(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TargetError, match="not one you trust"):
        probe(server.address, identity=server.folder / "user")
    trust(server.address, server.fingerprint)
    assert probe(server.address, identity=server.folder / "user").mode == "15W"


def test_a_key_is_kept_under_the_host_that_the_ssh_configuration_names(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(f"Host orin\n  HostName 127.0.0.1\n  Port {server.address.port}\n")
    alias = Address("orin", "nvidia")
    kept = trust(alias, server.fingerprint, known_hosts=tmp_path / "kept")
    assert probe(alias, known_hosts=kept, identity=server.folder / "user").mode == "15W"
    with pytest.raises(TargetError, match="HAS CHANGED"):
        probe(alias, known_hosts=server.folder / "other", identity=server.folder / "user")


def test_a_known_hosts_file_that_is_missing_is_named(server, tmp_path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        probe(server.address, known_hosts=tmp_path / "none")


def test_a_login_that_is_refused_says_so(server: SimpleNamespace) -> None:
    with pytest.raises(TargetError, match="refuses the login"):
        probe(server.address, known_hosts=server.folder / "known", identity=server.folder / "stranger")


def test_a_board_that_does_not_answer_says_so(server: SimpleNamespace) -> None:
    with pytest.raises(TargetError, match=r"127\.0\.0\.1 cannot be reached"):
        probe(Address("127.0.0.1", "nvidia", 1), known_hosts=server.folder / "known", identity=server.folder / "user")
