"""`provision.sh` run for real, into a folder that stands for a device's `/`."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.ship.fleet.device_files import device_files
from edgekd.ship.fleet.inventory import Fleet

DEVICE = Path(__file__).parents[2] / "deploy" / "device"
SCRIPT = DEVICE / "provision.sh"
FLEET = Fleet.model_validate(
    {
        "schema_version": 1,
        "name": "plant",
        "groups": {"line": {"target": "jetson-orin-nx-16gb"}},
        "devices": [
            {"id": "orin-1", "address": "edgekd@10.0.0.1", "group": "line"},
            {"id": "orin-2", "address": "edgekd@10.0.0.2", "group": "line"},
        ],
    }
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "1.root.json").write_text('{"signed": "root 1"}')
    (folder / "key.pub").write_text("ssh-ed25519 AAAA ann@desk\n")

    def write(number=0, name="from"):
        target = folder / f"{name}-{number}"
        files = device_files(FLEET, FLEET.devices[number], folder / "1.root.json", folder / "key.pub")
        for path, content in files.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)
        return target

    return write


def run(*words, shell="sh"):
    return subprocess.run([shell, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)


def provision(prepared, prefix, number=0, *extra):
    source = prepared(number)
    return run("--from", source, "--authorized-key", source / "operator.pub", "--prefix", prefix, *extra)


def test_it_is_sound_shell():
    for shell in ("bash", "dash"):
        if shutil.which(shell):
            subprocess.run([shell, "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True)


def test_a_device_is_laid_out_and_its_agent_answers(prepared, tmp_path):
    done = provision(prepared, tmp_path)
    assert done.returncode == 0, done.stderr
    root, agents = tmp_path / "var/lib/edgekd", tmp_path / "opt/edgekd"
    assert json.loads((root / "device.json").read_text()) == {
        "schema_version": 1,
        "device_id": "orin-1",
        "group": "line",
        "selector": {"device": "jetson-orin-nx-16gb"},
    }
    assert (root / "trust" / "root.json").read_text() == '{"signed": "root 1"}'
    assert (root / "trust").stat().st_mode & 0o777 == 0o700
    assert (agents / "agent").is_symlink()
    program = agents / "agent" / "edgekd-agent.pyz"
    hello = subprocess.run(
        [sys.executable, str(program), "--root", str(root), "hello", "--json"], capture_output=True, check=False
    )
    said = json.loads(hello.stdout)
    assert (said["device_id"], said["group"], said["current"]) == ("orin-1", "line", None)


def test_the_operators_key_may_run_the_agent_and_nothing_else(prepared, tmp_path):
    provision(prepared, tmp_path)
    provision(prepared, tmp_path)
    lines = (tmp_path / "home/edgekd/.ssh/authorized_keys").read_text().splitlines()
    assert lines == ['restrict,command="python3 -I /opt/edgekd/login.py" ssh-ed25519 AAAA ann@desk']
    assert (tmp_path / "home/edgekd/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600


def test_again_it_keeps_data_and_root_of_trust(prepared, tmp_path):
    provision(prepared, tmp_path)
    root = tmp_path / "var/lib/edgekd"
    (root / "trust" / "root.json").write_text("root 5, which the device has come to trust")
    (root / "journal").write_text("what happened")
    done = provision(prepared, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stays" in done.stdout
    assert "root 5" in (root / "trust" / "root.json").read_text()
    assert (root / "journal").read_text() == "what happened"


def test_a_device_is_not_made_another_by_accident(prepared, tmp_path):
    provision(prepared, tmp_path)
    done = provision(prepared, tmp_path, 1)
    assert done.returncode == 4
    assert "was provisioned as another" in done.stderr
    assert json.loads((tmp_path / "var/lib/edgekd/device.json").read_text())["device_id"] == "orin-1"


def test_an_agent_that_was_damaged_on_its_way_is_refused(prepared, tmp_path):
    source = prepared(0, "damaged")
    content = bytearray((source / "edgekd-agent.pyz").read_bytes())
    content[len(content) // 2] ^= 1
    (source / "edgekd-agent.pyz").write_bytes(content)
    done = run("--from", source, "--prefix", tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "opt/edgekd/agent").exists()


@pytest.mark.parametrize("missing", ["edgekd-agent.pyz", "device.json", "root.json", "login.py"])
def test_what_is_missing_is_named_before_anything_is_done(prepared, tmp_path, missing):
    source = tmp_path / "from"
    shutil.copytree(prepared(0), source)
    (source / missing).unlink()
    done = run("--from", source, "--prefix", tmp_path / "device")
    assert done.returncode == 5
    assert missing in done.stderr
    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize(
    "words", [(), ("--from",), ("--fast",), ("--from", "x", "--user", "a b"), ("--from", "x", "--user", "-x")]
)
def test_wrong_usage(words):
    assert run(*words).returncode == 2


def test_units_are_installed(prepared, tmp_path):
    source = tmp_path / "from"
    shutil.copytree(prepared(0), source)
    (source / "systemd").mkdir(exist_ok=True)
    (source / "systemd" / "edgekd-test.service").write_text("[Unit]\n[Install]\nWantedBy=multi-user.target\n")
    done = run("--from", source, "--prefix", tmp_path / "device")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "device/etc/systemd/system/edgekd-test.service").is_file()
    assert "services were not started" in done.stdout


@pytest.fixture(scope="module")
def login():
    spec = importlib.util.spec_from_file_location("login", DEVICE / "login.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AGENT = "python3 /opt/edgekd/agent/edgekd-agent.pyz --root /var/lib/edgekd"


@pytest.mark.parametrize(
    "asked",
    [
        f"{AGENT} hello --json",
        f"{AGENT} install --detach --json",
        f"{AGENT} lock --owner 'ann; rm -rf /' --json",
        "/usr/lib/openssh/sftp-server",
        "internal-sftp",
    ],
)
def test_the_forced_login_allows_what_operators_need(login, asked):
    assert login.allowed(asked)


def test_words_stay_words(login):
    command = login.allowed(f"{AGENT} lock --owner 'ann; rm -rf /' --json")
    assert command[-3:] == ["--owner", "ann; rm -rf /", "--json"]


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "sh",
        "id -u",
        "python3 -c 'print(1)'",
        "python3 /tmp/other.pyz --root /var/lib/edgekd hello",
        "python3 /opt/edgekd/agent/edgekd-agent.pyz --root /tmp/mine hello",
        f"{AGENT} serve",
        f"{AGENT} upgrade /tmp/x --sha256 0 --into /opt/edgekd",
        f"{AGENT}; id",
        f"{AGENT} hello'",
        "/tmp/sftp-server",
    ],
)
def test_the_forced_login_refuses_everything_else(login, asked):
    assert login.allowed(asked) is None
