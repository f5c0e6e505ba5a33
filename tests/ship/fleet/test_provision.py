"""Provisioning over a real SSH server, as root, into a folder that stands for the device's `/`."""

import asyncio
import importlib
import json
import os
import subprocess
import sys

import pytest

from edgekd.core.errors import ExitCode
from edgekd.ship import trust
from edgekd.ship.fleet import AuditLog, Books, Records, Work, exit_code_of
from edgekd.ship.fleet.device_files import device_files
from edgekd.ship.fleet.inventory import Fleet, Timeouts
from edgekd.ship.fleet.provision import Login, provision
from edgekd.ship.fleet.repository import RepositorySource
from edgekd.ship.transport import AgentPlace, SshTransport
from edgekd.targets.ssh_line import Pauses
from tools.reliability import ssh_server

pytestmark = [
    pytest.mark.skipif(bool(ssh_server.unavailable()), reason=ssh_server.unavailable() or "-"),
    pytest.mark.skipif(os.getuid() != 0, reason="provisioning is done by root"),
]
PAUSES = Pauses(give_up_s=10, first_wait_s=0.1)


@pytest.fixture
def site(tmp_path):
    """A fleet of one device, its repository, and a function that provisions it."""
    trust.init(tmp_path / "repo", tmp_path / "signing", ["line"], root_keys=1, root_threshold=1)
    with ssh_server.running(tmp_path / "ssh") as server:
        device_root = tmp_path / "device"
        program = device_root / "opt/edgekd/agent/edgekd-agent.pyz"
        place = AgentPlace(command=(sys.executable, str(program)), root=str(device_root / "var/lib/edgekd"))
        entry = {"id": "orin-1", "address": f"127.0.0.1:{server.port}", "group": "line"}

        def run(device_id="orin-1", user=None, options=("--prefix", str(device_root)), more=None):
            document = {"schema_version": 1, "name": "plant", "groups": {"line": {"target": "cpu"}}}
            fleet = Fleet.model_validate({**document, "devices": [{**entry, "id": device_id}]})
            keys = server.keys()
            transport = SshTransport(keys, place, PAUSES)
            records = Records(tmp_path / "repo")
            books = Books(records, AuditLog(records.folder))
            work = Work(transport, RepositorySource(tmp_path / "repo"), "ann@desk", Timeouts(reach_tries=1))
            root = tmp_path / "repo" / "metadata" / "1.root.json"

            def files(device):
                return {**device_files(fleet, device, root, server.folder / "user.pub"), **(more or {})}

            login = Login(user, keys, PAUSES, options)
            done = asyncio.run(provision(work, books, fleet.devices, login, files=files, concurrency=2))
            return done[0], books

        yield run, device_root


def test_a_bare_device_becomes_part_of_the_fleet_and_again_changes_nothing(site, tmp_path):
    run, device_root = site
    result, books = run()
    assert (result.outcome, result.reason[:6]) == ("provisioned", "agent ")
    root = device_root / "var/lib/edgekd/trust/root.json"
    assert root.read_bytes() == (tmp_path / "repo/metadata/1.root.json").read_bytes()
    before = sorted(path.name for path in (device_root / "opt/edgekd").iterdir())
    again, _ = run()
    assert again.outcome == "provisioned"
    assert sorted(path.name for path in (device_root / "opt/edgekd").iterdir()) == before
    assert [record["result"] for record in books.log.read()] == ["provisioned", "provisioned"]
    assert not list((tmp_path / "..").glob("edgekd-provision.*"))


def test_a_device_that_is_another_already_is_refused(site):
    run, device_root = site
    run()
    result, _ = run(device_id="orin-2")
    assert result.outcome == "failed"
    assert "provisioned as another" in result.reason
    assert exit_code_of([result]) == ExitCode.TARGET
    assert json.loads((device_root / "var/lib/edgekd/device.json").read_text())["device_id"] == "orin-1"


def test_a_login_without_root_says_what_is_needed(site):
    run, _ = site
    if subprocess.run(["id", "nobody"], capture_output=True, check=False).returncode:
        pytest.skip("there is no user nobody")
    result, _ = run(user="nobody")
    assert not result.is_done


def test_nothing_is_left_in_tmp(site):
    run, _ = site
    before = {name for name in os.listdir("/tmp") if name.startswith("edgekd-provision")}
    run()
    assert {name for name in os.listdir("/tmp") if name.startswith("edgekd-provision")} == before


def test_a_script_that_hangs_there_is_given_up(site, monkeypatch):
    run, _ = site
    module = importlib.import_module("edgekd.ship.fleet.provision")  # the package has a function of that name
    monkeypatch.setattr(module, "_SCRIPT_S", 1.0)
    result, _ = run(more={"provision.sh": b"exec sleep 20\n"})
    assert not result.is_done
    assert "has not ended after 1 s" in result.reason
    assert result.seconds < 15


def test_a_file_that_the_device_refuses_is_named_and_not_sent_again(site):
    run, _ = site
    result, _ = run(more={"f" * 300: b"a name that is too long"})
    assert not result.is_done
    assert "refuses a file" in result.reason
