"""The inference server: real sockets, real engines of ONNX Runtime, changes of generation under load."""

import http.client
import io
import json
import socket
import threading
import time
from pathlib import Path

import models
import numpy as np
import power_loss
import pytest
from edgekd_agent import generations
from edgekd_agent.device import Settings, Site
from edgekd_agent.engine.shop import Shop
from edgekd_agent.install import steps, undo
from edgekd_agent.install.confirm import read_beat
from edgekd_agent.layout import Layout
from edgekd_agent.reader import parse_manifest
from edgekd_agent.serve import answering, service
from edgekd_agent.sockets import BoundedThreads
from models import Recipe, bundle

INPUTS = np.random.default_rng(5).random((3, *models.SHAPE), dtype=np.float32)
DEVICE_ROOM = 1


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A device that runs release 1 and has release 2 installed before; nothing is pretended."""
    root = tmp_path_factory.mktemp("device")
    site = Site(Layout(root), Settings(reserve_mib=0, max_request_mib=DEVICE_ROOM))
    install(site, 2)
    install(site, 1)
    return site


def install(site: Site, version: int) -> None:
    release = bundle(Recipe(version))
    power_loss.put_parts(site.layout.root, release)
    shop, manifest = Shop(site), parse_manifest(release.manifest)
    candidate = steps.candidate_of(site, release.manifest, release.sha256, manifest, shop)
    steps.install(site, candidate, shop)


class OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Running:
    """A server in this process."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.path = site, folder / "s"
        self.service = service.Service(site)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.servers = service._servers(self.service, self.port, self.path)
        self.service.look()
        self._threads = [threading.Thread(target=one.serve_forever, args=(0.05,)) for one in self.servers]
        self._threads.append(threading.Thread(target=self.service.watch))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self.service.ended.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def ask(self, method: str, path: str, body: bytes | None = None, headers=None, *, is_port: bool = False):
        connection = http.client.HTTPConnection("127.0.0.1", self.port) if is_port else OverSocket(self.path)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def infer(self, inputs=INPUTS, **options):
        return self.ask("POST", "/v1/infer", npz(inputs=inputs), **options)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def logits(content: bytes):
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return found["logits"]


@pytest.fixture
def server(device, tmp_path):
    running = Running(device, tmp_path)
    yield running
    running.close()


@pytest.mark.parametrize("is_port", [False, True])
def test_answers_are_those_of_the_signed_network(server, is_port) -> None:
    answer, content = server.infer(is_port=is_port)
    assert (answer.status, answer.getheader("X-Edgekd-Generation")) == (200, "2")
    np.testing.assert_allclose(logits(content), models.expected(1, INPUTS), atol=1e-5)


def test_any_number_of_rows_is_answered_in_order(server) -> None:
    many = np.random.default_rng(0).random((11, *models.SHAPE), dtype=np.float32)
    np.testing.assert_allclose(logits(server.infer(many)[1]), models.expected(1, many), atol=1e-5)


def test_raw_numbers_are_taken_and_given(server) -> None:
    headers = {"Content-Type": "application/octet-stream", "X-Edgekd-Shape": "3,1,4,4"}
    answer, content = server.ask("POST", "/v1/infer", INPUTS.tobytes(), headers)
    assert (answer.getheader("X-Edgekd-Shape"), answer.getheader("X-Edgekd-Dtype")) == ("3,3", "float32")
    found = np.frombuffer(content, "<f4").reshape(3, 3)
    np.testing.assert_allclose(found, models.expected(1, INPUTS), atol=1e-5)


RAW = {"Content-Type": "application/octet-stream"}


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"", {}, 400),
        (b"junk", {}, 400),
        (npz(inputs=INPUTS[:, :, :3]), {}, 400),
        (npz(inputs=INPUTS[0]), {}, 400),
        (npz(inputs=INPUTS[:0]), {}, 400),
        (npz(inputs=INPUTS.astype(np.int64)), {}, 400),
        (npz(inputs=np.float32(1)), {}, 400),
        (npz(inputs=INPUTS * np.nan), {}, 400),
        (npz(inputs=np.full((1, *models.SHAPE), 1e300)), {}, 400),
        (npz(other=INPUTS), {}, 400),
        (INPUTS.tobytes(), RAW, 400),
        (INPUTS.tobytes(), {**RAW, "X-Edgekd-Shape": "3,1,4"}, 400),
        (INPUTS.tobytes(), {**RAW, "X-Edgekd-Shape": "-3,1,4,-4"}, 400),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"", {"Content-Length": str((DEVICE_ROOM << 20) + 1)}, 413),
        (b"", {"Content-Length": "9" * 5000}, 413),
        (b"", {"Content-Length": "many"}, 411),
        (b"", {"Content-Length": "\xb2"}, 411),
        (None, {"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_requests_that_make_no_sense_are_refused_and_the_server_goes_on(server, body, headers, code) -> None:
    answer, content = server.ask("POST", "/v1/infer", body, headers)
    assert answer.status == code
    assert json.loads(content)["error"]
    assert server.service.counts.failures == 0
    assert server.infer()[0].status == 200


def exchanged(server, request: bytes) -> bytes:
    """Return all that is answered until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("line", ["POST /nowhere", "GET /nowhere", "GET /metrics"])
def test_body_that_is_not_read_is_no_next_request(server, line) -> None:
    body = b"GET /health HTTP/1.1\r\n\r\n"
    answers = exchanged(server, f"{line} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answers.count(b"HTTP/1.1 ") == 1


def test_connection_of_an_old_client_ends_with_the_answer(server) -> None:
    body = npz(inputs=INPUTS)
    answers = exchanged(server, b"POST /v1/infer HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert answers.startswith(b"HTTP/1.1 200") and b"Connection: close" in answers


def test_client_that_sends_now_and_then_a_byte_holds_no_place(device, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(answering, "_TIMEOUT_S", 1.0)
    monkeypatch.setattr(answering.Handler, "timeout", 1.0)
    monkeypatch.setattr(BoundedThreads, "places", threading.BoundedSemaphore(1))
    running = Running(device, tmp_path)
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as slow:
        slow.sendall(b"POST /v1/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        began_s = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began_s < 10:
                slow.sendall(b"a")
                time.sleep(0.1)
    assert running.infer()[0].status == 200
    running.close()


def test_server_ends_while_all_its_places_are_taken(device, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(BoundedThreads, "places", threading.BoundedSemaphore(1))
    running = Running(device, tmp_path)
    idle = [socket.create_connection(("127.0.0.1", running.port), timeout=10) for _ in range(3)]
    time.sleep(0.3)
    began_s = time.monotonic()
    running.close()
    assert time.monotonic() - began_s < 10
    for connection in idle:
        connection.close()


def test_clients_that_come_together_wait_in_the_queue(device, tmp_path) -> None:
    servers = service._servers(service.Service(device), 0, tmp_path / "s")  # nothing accepts yet
    clients = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for client in clients:
        client.setblocking(False)
        client.connect(str(tmp_path / "s"))
    for one in (*clients, *servers):
        one.close() if isinstance(one, socket.socket) else one.server_close()


def test_other_paths_are_not_there(server) -> None:
    assert server.ask("GET", "/")[0].status == 404
    assert server.ask("POST", "/v1/infer/..", b"")[0].status == 404
    assert server.ask("PUT", "/v1/infer", b"")[0].status == 501


def test_several_requests_share_a_connection(server) -> None:
    connection = OverSocket(server.path)
    for _ in range(3):
        connection.request("POST", "/v1/infer", npz(inputs=INPUTS))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


def test_health_and_metrics_tell_what_runs(server) -> None:
    server.infer()
    server.ask("POST", "/v1/infer", b"junk")
    answer, content = server.ask("GET", "/health")
    document = json.loads(content)
    assert (answer.status, document["is_ok"], document["current"]["version"]) == (200, True, 1)
    text = server.ask("GET", "/metrics")[1].decode()
    assert 'edgekd_serve_requests_total{code="200"} 2' in text
    assert 'edgekd_serve_requests_total{code="400"} 1' in text
    assert "edgekd_serve_inference_seconds_count 1" in text
    assert 'edgekd_release_info{name="student",version="1"' in text
    for line in text.splitlines():
        assert line.startswith("# ") or len(line.rsplit(" ", 1)) == 2


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_change_of_generation_drops_no_request(device, server) -> None:
    """Two threads ask without a pause while `current` is led elsewhere; every answer is whole and of one release."""
    answers, is_over = [], threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            answer, content = server.infer()
            answers.append((answer.status, answer.getheader("X-Edgekd-Generation"), logits(content)))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in (1, 2, 1, 2):
            generations.point(device.layout, device.layout.current, number)
            wait_for(lambda number=number: server.service.held.generation.number == number)
            seen = len(answers)
            wait_for(lambda seen=seen: len(answers) > seen + 4)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert {status for status, _, _ in answers} == {200}
    assert {number for _, number, _ in answers} == {"1", "2"}
    wanted = {"1": models.expected(2, INPUTS), "2": models.expected(1, INPUTS)}
    for _, number, found in answers:
        np.testing.assert_allclose(found, wanted[number], atol=1e-5)


def test_release_that_cannot_be_opened_is_not_served_and_beats_as_ill(device, server) -> None:
    folder = device.layout.generation(1)
    golden = (folder / "golden.npz").resolve()
    content = golden.read_bytes()
    golden.chmod(0o644)
    try:
        golden.write_bytes(content[:-1] + b"x")
        generations.point(device.layout, device.layout.current, 1)
        wait_for(lambda: server.service.problem)
        server.service.beat()
        beat = read_beat(device)
        assert (beat.generation, beat.is_ok) == (1, False)
        assert "has changed on this disk" in beat.message
        assert server.ask("GET", "/health")[0].status == 503
        assert server.infer()[0].getheader("X-Edgekd-Generation") == "2"
    finally:
        golden.write_bytes(content)
        generations.point(device.layout, device.layout.current, 2)
    wait_for(lambda: not server.service.problem)
    assert server.ask("GET", "/health")[0].status == 200


def test_beat_tells_the_generation_and_failed_requests(device, server, monkeypatch) -> None:
    wait_for(lambda: server.service.held is not None)
    server.service.beat()
    first = read_beat(device)
    assert (first.generation, first.is_ok, first.message) == (2, True, "")
    server.service.counts.failed()
    server.service.beat()
    assert (read_beat(device).is_ok, read_beat(device).message) == (False, "1 requests failed")
    server.service.beat()
    third = read_beat(device)
    assert third.is_ok and third.sequence > first.sequence


def test_answer_that_is_not_finite_is_an_error_and_counted(server) -> None:
    answer, content = server.infer(np.full((1, *models.SHAPE), 3e38, np.float32))
    assert answer.status == 500
    assert "NaN or infinite" in json.loads(content)["error"]
    assert server.service.counts.failures == 1


def test_device_without_a_release_says_so(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    running = Running(Site(Layout(tmp_path / "empty")), tmp_path)
    try:
        assert running.ask("GET", "/health")[0].status == 503
        answer, content = running.infer()
        assert (answer.status, json.loads(content)["error"]) == (503, "no release runs on this device yet")
    finally:
        running.close()


def test_socket_of_a_dead_server_is_taken_over_and_of_a_living_one_not(device, server, tmp_path) -> None:
    from edgekd_agent.errors import AgentError

    with pytest.raises(AgentError, match="no socket"):
        service._servers(server.service, 0, server.path)
    assert server.infer()[0].status == 200
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    (again,) = service._servers(server.service, 0, dead)
    assert dead.stat().st_mode & 0o777 == 0o660
    again.server_close()


def test_rollback_is_served_at_once(device, server) -> None:
    assert undo.rollback(device, "a trial").number == 1
    wait_for(lambda: server.service.held.generation.number == 1)
    np.testing.assert_allclose(logits(server.infer()[1]), models.expected(2, INPUTS), atol=1e-5)
