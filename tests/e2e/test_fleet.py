"""From a signed bundle to devices that serve it, all of it real: repository, SSH servers, agents, ONNX Runtime."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tools.reliability import models, ssh_server
from tools.reliability.ssh_server import free_port

pytest.importorskip("asyncssh")
pytest.importorskip("tuf")
pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(ssh_server.unavailable()), reason=ssh_server.unavailable() or "-"),
]
MAIN = "from edgekd.cli.main import main; main()"


def start(lab, *words):
    command = [sys.executable, "-c", MAIN, "fleet", *words, "-f", str(lab.fleet), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(lab, *words):
    process = start(lab, *words)
    stdout, stderr = process.communicate(timeout=120)
    try:
        return json.loads(stdout), process.returncode
    except ValueError:
        raise AssertionError(stderr) from None


def outcomes(document):
    return {one["device_id"]: one["outcome"] for one in document["deployments"][0]["devices"]}


@pytest.fixture
def lab(request, tmp_path):
    """A fleet of as many devices as the test says, two if it says nothing."""
    from tools.reliability import fleet_lab

    names = ["a", "b"][: getattr(request, "param", 2)]
    with fleet_lab.lab(tmp_path / "lab", names) as made:
        yield made


alone = pytest.mark.parametrize("lab", [1], indirect=True)


def answered(request):
    """Return the answer of a server that may not listen yet."""
    for _ in range(100):
        try:
            return urllib.request.urlopen(request, timeout=10).read()
        except urllib.error.URLError as error:
            assert isinstance(error.reason, ConnectionError), error
            time.sleep(0.1)
    raise AssertionError("nothing listens")


def ask(device, version):
    """Have the device's own server answer, and compare with what the network of that version must say."""
    import numpy as np

    port = free_port()
    program = device.root.parents[2] / "edgekd-agent.pyz"
    command = [sys.executable, str(program), "--root", str(device.root), "serve", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        inputs = np.random.default_rng(5).random((1, *models.SHAPE), dtype=np.float32)
        body = models.npz(inputs=inputs)
        url = f"http://127.0.0.1:{port}/v1/infer"
        request = urllib.request.Request(url, body, {"Content-Type": "application/x-npz"})
        answer = answered(request)
        found = np.load(io.BytesIO(answer), allow_pickle=False)
        logits = found[found.files[0]]
        np.testing.assert_allclose(logits, models.expected(version, inputs), rtol=1e-4)
    finally:
        server.terminate()
        server.wait(20)


def test_published_deployed_served_refused_and_rolled_back(lab):
    first = lab.publish(models.Recipe(version=1, padding_bytes=300_000))
    document, code = run(lab, "deploy")
    assert code == 0
    assert outcomes(document) == {"a": "installed", "b": "installed"}
    assert {one.runs() for one in lab.devices.values()} == {first}
    ask(lab.devices["a"], 1)

    lab.publish(models.Recipe(version=2, shift=0.5))
    document, code = run(lab, "deploy")
    assert code == 3
    assert outcomes(document) == {"a": "failed", "b": "not-started"}
    assert {one.runs() for one in lab.devices.values()} == {first}, "a wrong model never serves"

    third = lab.publish(models.Recipe(version=3))
    assert run(lab, "deploy")[1] == 0
    assert {one.runs() for one in lab.devices.values()} == {third}
    assert run(lab, "rollback", "--all")[1] == 0
    assert {one.runs() for one in lab.devices.values()} == {first}
    ask(lab.devices["a"], 1)
    verdict, code = run(lab, "history", "--verify")
    assert (verdict["is_whole"], verdict["records"], code) == (True, 8, 0)


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@alone
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_operator_who_vanishes_is_no_loss_and_the_same_command_goes_on(lab, how):
    digest = lab.publish(models.Recipe(version=1))
    process = start(lab, "deploy")
    wait_until((lab.devices["a"].root / "operator.json").exists)
    time.sleep(0.5)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    document, code = run(lab, "deploy")
    assert code == 0, document
    assert {one.runs() for one in lab.devices.values()} == {digest}
    assert run(lab, "history", "--verify")[1] == 0


@alone
def test_two_operators_at_once(lab):
    lab.publish(models.Recipe(version=1))
    first = start(lab, "deploy", "--owner", "ann@desk")
    wait_until((lab.devices["a"].root / "operator.json").exists)
    document, code = run(lab, "deploy", "--owner", "bob@lab")
    assert code == 1
    assert "ann@desk" in document["error"]["message"]
    assert first.communicate(timeout=120) and first.returncode == 0


def test_a_device_that_was_off_converges_when_it_is_back(lab):
    digest = lab.publish(models.Recipe(version=1))
    lab.devices["b"].wire.trouble.is_down = True
    document, code = run(lab, "deploy")
    assert (code, outcomes(document)) == (4, {"a": "installed", "b": "offline"})
    lab.devices["b"].wire.trouble.is_down = False
    document, code = run(lab, "status", "--converge")
    assert code == 0
    assert lab.devices["b"].runs() == digest
    assert all(one["is_as_desired"] for one in document["devices"])


@alone
def test_a_repository_that_was_tampered_with_reaches_no_device(lab):
    lab.publish(models.Recipe(version=1))
    run(lab, "deploy")
    lab.publish(models.Recipe(version=2))
    blob = max((lab.repository / "blobs").iterdir(), key=lambda path: path.stat().st_mtime)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    before = {name: one.runs() for name, one in lab.devices.items()}
    document, code = run(lab, "deploy")
    assert code == 6, document
    assert {name: one.runs() for name, one in lab.devices.items()} == before
    assert os.listdir(lab.devices["a"].root / "staging" / "blobs") == []
