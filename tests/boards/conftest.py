"""A pretended board behind a real SSH server on loopback, and a wire to it that can be cut.

`trtexec`, `tegrastats` and `nvpmodel` are stand-ins: their output is written by hand from NVIDIA's published key lists,
none was recorded on a board. The server is OpenSSH where it is installed, else that of asyncssh.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.boards import BoardOptions, Patience
from edgekd.boards import remote as remote_module
from edgekd.boards.build import build_on_boards
from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.targets.ssh_connection import Address, SshKeys
from tests.boards import namespaces

asyncssh = pytest.importorskip("asyncssh")

HERE = Path(__file__).parent
SSHD = Path("/usr/sbin/sshd")
PATIENCE = Patience(give_up_s=20, first_wait_s=0.1, longest_wait_s=0.5, poll_s=0.1)
GIB = 1 << 20  # in kB, as /proc/meminfo counts

GPU = """\
name=Orin
memory_bytes=16136011776
sm=87
sms=8
clock_khz=918000
l2_bytes=2097152
integrated=1
memory_khz=918000
bus_bits=128
"""
CONF = "< POWER_MODEL ID=0 NAME=MAXN >\nGPU MAX_FREQ 918000000\n< POWER_MODEL ID=2 NAME=15W >\nGPU MAX_FREQ 612000000\n"


class PretendedBoard:
    """Files and programs of an Orin NX 16GB with JetPack 6.2, under a folder that stands for its `/`."""

    def __init__(self, folder: Path) -> None:
        self.home, self.root = folder / "home", folder / "root"
        self.home.mkdir(parents=True)
        self.put("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
        self.put("proc/device-tree/model", "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0")
        self.put("proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0000\0nvidia,p3767-0000\0nvidia,tegra234\0")
        self.put("etc/nvpmodel.conf", CONF)
        self.put("usr/local/cuda/version.json", '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}')
        self.put("gpu.txt", GPU)
        self.set_memory(12 * GIB)
        self.reboot()
        for name, value in (("cur_freq", 918), ("min_freq", 306), ("max_freq", 918)):
            self.put(f"sys/class/devfreq/17000000.gpu/{name}", f"{value}000000\n")
        for name, value in (("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "1200")):
            self.put(f"sys/class/hwmon/hwmon3/{name}", f"{value}\n")
        for name in ("nvpmodel", "tegrastats", "trtexec"):
            place = "usr/src/tensorrt/bin" if name == "trtexec" else "usr/bin"
            self.put_program(f"{place}/{name}", (HERE / "pretended" / f"{name}.py").read_text())
        self.behave()

    def put(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def put_program(self, name: str, text: str) -> None:
        path = self.put(name, f"#!{sys.executable}\nBOARD = {str(self.root)!r}\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def set_memory(self, available_kb: int, total_kb: int = 15 * GIB) -> None:
        self.put("proc/meminfo", f"MemTotal: {total_kb} kB\nMemAvailable: {available_kb} kB\nSwapFree: 0 kB\n")

    def reboot(self) -> None:
        """End every program of the board at once, as a restart does, and let it count as another start."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.put("proc/sys/kernel/random/boot_id", f"{time.monotonic_ns()}\n")

    def behave(self, **how: object) -> None:
        """Tell the stand-ins how to go wrong, and which TensorRT to be (`line="10.3"`)."""
        self.put("behaviour.json", json.dumps({"line": "10.3", **how}))

    def processes(self) -> list[int]:
        """Return the numbers of programs of this board that run: its jobs and what they started."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(str(self.root.parent) in word for word in words):
                    found.append(int(entry.name))
        return [pid for pid in found if pid != os.getpid()]

    def calls(self, what: str = "") -> list[list[str]]:
        """Return the arguments of every start of trtexec whose words hold `what`."""
        path = self.root / "calls.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [words for words in map(json.loads, lines) if any(what in word for word in words)]

    def jobs(self) -> list[Path]:
        return sorted((self.home / ".edgekd" / "jobs").glob("*"))


class Wire:
    """A TCP relay on loopback that can be cut: now, or after so many bytes towards the board or back from it."""

    def __init__(self, address: str, port: int) -> None:
        self._far = (address, port)
        self._loop = asyncio.new_event_loop()
        self._writers: list[asyncio.StreamWriter] = []
        self.cut_after_bytes: int | None = None
        self.cut_after_bytes_back: int | None = None
        self.is_down = False
        self.cuts = 0
        self.bytes_sent = self.bytes_back = 0
        self.connections = 0
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def cut(self) -> None:
        """Drop every connection."""
        self._loop.call_soon_threadsafe(self._drop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _end(self) -> None:
        self._drop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            writer.close()
            return
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(*self._far)
        self._writers += [writer, far_writer]
        tasks = [
            asyncio.create_task(self._copy(reader, far_writer, is_counted=True)),
            asyncio.create_task(self._copy(far_reader, writer, is_counted=False)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.05)
        for side in (writer, far_writer):
            side.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_counted: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(1 << 14):
                self.bytes_sent += len(block) if is_counted else 0
                if is_counted and self.cut_after_bytes is not None:
                    self.cut_after_bytes -= len(block)
                    if self.cut_after_bytes < 0:
                        self.cut_after_bytes = None
                        self._drop()
                        return
                if not is_counted:
                    self.bytes_back += len(block)
                    if self.cut_after_bytes_back is not None and self.bytes_back > self.cut_after_bytes_back:
                        self.cut_after_bytes_back = None
                        self._drop()
                        return
                writer.write(block)
                await writer.drain()

    def _drop(self) -> None:
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


class Bench:
    """A pretended board, its server, the wire to it, and the keys."""

    def __init__(self, board: PretendedBoard, wire: Wire, folder: Path) -> None:
        self.board, self.folder = board, folder
        self.wire = wire
        self.address = Address("127.0.0.1", None, self.wire.port)
        self.events: list = []
        self.trust("host.pub")

    def trust(self, key: str) -> SshKeys:
        known = self.folder / f"known-{key}"
        known.write_text(f"[127.0.0.1]:{self.wire.port} {(self.folder / key).read_text().strip()}\n")
        self.keys = SshKeys(known, self.folder / "user")
        return self.keys

    def build(self, model: OnnxModel, output: Path, options: BoardOptions | None = None, **extra):
        """Build on this board alone and return its result."""
        named = {"board": self.address, **extra.pop("others", {})}
        settings = {"keys": self.keys, "patience": PATIENCE, "listener": self.listen, **extra}
        results = build_on_boards(model, named, output, options or BoardOptions(duration_s=1), **settings)
        return results[0] if len(results) == 1 else results

    def listen(self, event) -> None:
        self.events.append(event)

    @property
    def said(self) -> str:
        return "\n".join(f"{event.kind} {event.message}" for event in list(self.events))

    def when(self, words: str, act: Callable[[], object], timeout_s: float = 30) -> threading.Thread:
        """Act in the background once the progress says so."""

        def wait() -> None:
            deadline = time.monotonic() + timeout_s
            while words not in self.said and time.monotonic() < deadline:
                time.sleep(0.02)
            act()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


def wait_for(claim: Callable[[], bool], timeout_s: float = 10) -> bool:
    """Return whether a claim comes true in time."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def pretend(monkeypatch) -> None:
    """Have the program on every board look at the files of its pretended board."""
    monkeypatch.setattr(remote_module, "ROOT", "../root")
    monkeypatch.setattr("edgekd.boards.build.CUDA_PROGRAM", "print(open('../root/gpu.txt').read())")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_keys(folder: Path) -> None:
    for name in ("host", "user", "stranger"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
        (folder / name).chmod(0o600)


def start_server(
    kind: str, board: PretendedBoard, folder: Path, address: str = "127.0.0.1", enter: Sequence[str] = ()
) -> tuple[subprocess.Popen, int]:
    """Start a server whose logins land in the board's home, with nothing of this machine's own environment.

    `enter` begins its command line, to have it in the network that `address` is of.
    """
    port = free_port()
    tools = folder / "bin"
    tools.mkdir()
    python = os.environ.get("EDGEKD_TEST_BOARD_PYTHON", getattr(sys, "_base_executable", sys.executable))
    (tools / "python3").symlink_to(python)
    login = folder / "login"
    login.write_text(
        f"#!/bin/sh\ncd '{board.home}' || exit 1\nexport HOME='{board.home}' PATH='{tools}:/usr/bin:/bin'\n"
        'echo "Welcome to the board"\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    login.chmod(0o755)
    if kind == "openssh":
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress {address}\nHostKey {folder / 'host'}\n"
            f"AuthorizedKeysFile {folder / 'user.pub'}\n"
            "PasswordAuthentication no\nStrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin yes\n"
            f"MaxStartups 100\nForceCommand {login}\n"
        )
        command = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    else:
        command = [sys.executable, str(HERE / "pretended" / "server.py"), str(port), str(folder)]
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen([*enter, *command], stdout=log, stderr=log)
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return server, port
        time.sleep(0.05)
    raise RuntimeError((folder / "server.log").read_text())


@pytest.fixture(scope="session")
def keys_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    write_keys(folder)
    return folder


@pytest.fixture(params=["openssh" if SSHD.is_file() else "asyncssh"])
def bench(request, tmp_path_factory, keys_folder, monkeypatch) -> Iterator[Bench]:
    yield from _bench(request.param, tmp_path_factory.mktemp("bench"), keys_folder, monkeypatch)


@pytest.fixture
def make_bench(tmp_path_factory, keys_folder, monkeypatch) -> Iterator[Callable[[str, str], Bench]]:
    """Make a board by the kind of its server and a name."""
    made = []

    def make(kind: str, name: str) -> Bench:
        made.append(_bench(kind, tmp_path_factory.mktemp(name), keys_folder, monkeypatch))
        return next(made[-1])

    yield make
    for one in made:
        next(one, None)


def _bench(kind: str, folder: Path, keys_folder: Path, monkeypatch) -> Iterator[Bench]:
    if kind == "openssh" and not SSHD.is_file():
        pytest.skip("OpenSSH's sshd is not installed")
    shutil.copytree(keys_folder, folder / "ssh")
    board = PretendedBoard(folder / "board")
    is_apart = "EDGEKD_TEST_NAMESPACES" in os.environ and kind == "openssh"
    if is_apart and (reason := namespaces.unavailable()):
        pytest.skip(reason)
    with namespaces.namespace() if is_apart else contextlib.nullcontext(("127.0.0.1", [])) as (address, enter):
        server, port = start_server(kind, board, folder / "ssh", address, enter)
        pretend(monkeypatch)
        bench = Bench(board, Wire(address, port), folder / "ssh")
        yield bench
        bench.wire.close()
        server.terminate()
        server.wait(10)
        board.reboot()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory) -> Callable[..., OnnxModel]:
    """Write a small convolution and describe it; `size_bytes` pads its weights."""

    def make(*, batch: int = 1, opset: int = 17, precision: str = "fp32", size_bytes: int = 0, **changes) -> OnnxModel:
        path = tmp_path_factory.mktemp("model") / "net.onnx"
        rng = np.random.default_rng(size_bytes)
        tensors = [numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")]
        if size_bytes:
            tensors.append(numpy_helper.from_array(rng.integers(0, 255, size_bytes).astype(np.uint8), "padding"))
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch or "B", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch or "B", 4, 8, 8])],
            tensors,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
        facts = {"flavour": "any", "input_name": "x", "input_shape": (3, 8, 8), "output_name": "y", **changes}
        return OnnxModel(FileRef.of(path), precision, opset=opset, batch=batch, **facts)

    return make
