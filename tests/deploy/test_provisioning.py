"""`provision.sh` run for real, into a folder that stands for a device's `/`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.ship.fleet.device_files import device_files
from edgekd.ship.fleet.inventory import Fleet
from tools.reliability import ssh_server

DEVICE = Path(__file__).parents[2] / "deploy" / "device"
SCRIPT = DEVICE / "provision.sh"
FLEET = Fleet.model_validate(
    {
        "schema_version": 1,
        "name": "plant",
        "groups": {"line": {"target": "jetson-orin-nx-16gb"}},
        "devices": [
            {"id": "orin-1", "address": "edgekd-push@10.0.0.1", "group": "line"},
            {"id": "orin-2", "address": "edgekd-push@10.0.0.2", "group": "line"},
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


def test_the_operators_key_is_roots_file_and_written_once(prepared, tmp_path):
    provision(prepared, tmp_path)
    provision(prepared, tmp_path)
    keys = tmp_path / "etc/ssh/edgekd_authorized_keys"
    assert keys.read_text().splitlines() == ["restrict,port-forwarding ssh-ed25519 AAAA ann@desk"]
    assert keys.stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "home").exists()


def test_every_key_of_a_file_is_confined_and_comments_are_none(prepared, tmp_path):
    keys = tmp_path / "many.pub"
    keys.write_text("# ours\n\nssh-ed25519 AAAA ann@desk\n  ssh-ed25519 indented\nssh-ed25519 BBBB bob@lab\n")
    run("--from", prepared(0), "--authorized-key", keys, "--prefix", tmp_path / "device")
    lines = (tmp_path / "device/etc/ssh/edgekd_authorized_keys").read_text().splitlines()
    assert lines == [f"restrict,port-forwarding ssh-ed25519 {who}" for who in ("AAAA ann@desk", "BBBB bob@lab")]


def test_the_login_sees_a_folder_of_its_own_that_only_root_changes(prepared, tmp_path):
    provision(prepared, tmp_path)
    door = tmp_path / "var/lib/edgekd-push"
    modes = {
        path.relative_to(door).as_posix(): path.stat().st_mode & 0o7777 for path in door.rglob("*") if path.is_dir()
    }
    assert modes == {"staging": 0o755, "staging/metadata": 0o770, "staging/blobs": 0o770, "agent": 0o2750}
    assert door.stat().st_mode & 0o7777 == 0o755
    assert os.readlink(door / "edgekd-agent") == "agent/agent.sock"
    staging = tmp_path / "var/lib/edgekd/staging"
    assert staging.is_symlink() and staging.resolve() == door / "staging"


def test_sshd_takes_the_rules_and_they_are_what_is_meant(prepared, tmp_path):
    if reason := ssh_server.unavailable():
        pytest.skip(reason)
    provision(prepared, tmp_path)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host"], check=True)
    config = tmp_path / "sshd_config"
    config.write_text(f"Include {tmp_path}/etc/ssh/sshd_config.d/*.conf\nHostKey {tmp_path}/host\nPermitTTY yes\n")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)

    def effective(user):
        words = ["/usr/sbin/sshd", "-T", "-f", config, "-C", f"user={user},host=localhost,addr=127.0.0.1"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)

    push = effective("edgekd-push")
    expected = {
        "chrootdirectory": "/var/lib/edgekd-push",
        "forcecommand": "internal-sftp -u 0022",
        "authorizedkeysfile": "/etc/ssh/edgekd_authorized_keys",
        "authenticationmethods": "publickey",
        "permitopen": "edgekd-agent:*",
        "permitlisten": "none",
        "permittty": "no",
        "allowagentforwarding": "no",
        "allowstreamlocalforwarding": "local",
        "allowtcpforwarding": "local",
        "permittunnel": "no",
    }
    assert {key: push[key] for key in expected} == expected
    assert (effective("edgekd")["pubkeyauthentication"], effective("edgekd")["authorizedkeysfile"]) == ("no", "none")
    other = effective("nvidia")
    assert (other["forcecommand"], other["chrootdirectory"], other["permittty"]) == ("none", "none", "yes")


def test_another_root_of_trust_is_pointed_out(prepared, tmp_path):
    provision(prepared, tmp_path)
    assert "NOT the one" not in provision(prepared, tmp_path).stdout
    (tmp_path / "var/lib/edgekd/trust/root.json").write_text("somebody's")
    assert "NOT the one that was sent" in provision(prepared, tmp_path).stdout


def test_users_of_other_names_are_written_into_units_and_rules(prepared, tmp_path):
    done = provision(prepared, tmp_path, 0, "--user", "robot", "--push-user", "robot-in")
    assert done.returncode == 0, done.stderr
    attend = (tmp_path / "etc/systemd/system/edgekd-attend.service").read_text()
    assert "\nUser=robot\nGroup=robot\n" in attend
    assert "--user robot-in\n" in attend
    rules = (tmp_path / "etc/ssh/sshd_config.d/edgekd.conf").read_text()
    assert "Match User robot-in\n" in rules and "Match User robot\n" in rules
    assert not [path.name for path in (tmp_path / "etc").rglob("*") if path.suffix in (".new", ".made")]


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


@pytest.mark.parametrize("missing", ["edgekd-agent.pyz", "device.json", "root.json"])
def test_what_is_missing_is_named_before_anything_is_done(prepared, tmp_path, missing):
    source = tmp_path / "from"
    shutil.copytree(prepared(0), source)
    (source / missing).unlink()
    done = run("--from", source, "--prefix", tmp_path / "device")
    assert done.returncode == 5
    assert missing in done.stderr
    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--from",),
        ("--fast",),
        ("--from", "x", "--user", "a b"),
        ("--from", "x", "--user", "-x"),
        ("--from", "x", "--user", "root"),
        ("--from", "x", "--push-user", "edgekd"),
    ],
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
