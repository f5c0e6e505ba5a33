"""The systemd units: hardened, and starting commands that the agent has."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edgekd_agent.__main__ import _COMMANDS

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "CapabilityBoundingSet": "",
    "RestrictSUIDSGID": "yes",
    "LimitCORE": "0",
    "User": "edgekd",
    "StateDirectory": "edgekd",
    "StateDirectoryMode": "0750",
}


def parsed(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    return parser


def test_there_are_units_for_attending_serving_and_recovering() -> None:
    assert [unit.name for unit in UNITS] == ["edgekd-attend.service", "edgekd-recover.service", "edgekd-serve.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_hardened_and_bounded(unit) -> None:
    service = parsed(unit)["Service"]
    for key, value in HARDENED.items():
        assert service[key] == value, key
    assert re.fullmatch(r"\d+%", service["MemoryMax"])
    assert int(service["TasksMax"]) > 0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_starts_a_command_that_the_agent_has(unit) -> None:
    words = parsed(unit)["Service"]["ExecStart"].split()
    assert words[:5] == ["/usr/bin/python3", "-I", "/opt/edgekd/agent/edgekd-agent.pyz", "--root", "/var/lib/edgekd"]
    assert words[5] in _COMMANDS
    assert unit.stem == f"edgekd-{words[5]}"


def test_what_was_asked_for_outlives_whoever_answers() -> None:
    service = parsed(UNITS[0])["Service"]
    assert (service["KillMode"], service["Restart"], service["OOMPolicy"]) == ("process", "always", "continue")
    assert service["RestrictAddressFamilies"] == "AF_UNIX"


@pytest.mark.parametrize("unit", UNITS[:2], ids=lambda unit: unit.stem)
def test_who_installs_may_empty_staging(unit) -> None:
    assert "-/var/lib/edgekd-push/staging" in parsed(unit)["Service"]["ReadWritePaths"].split()


def test_attending_is_where_the_login_looks(tmp_path) -> None:
    words = parsed(UNITS[0])["Service"]["ExecStart"].split()
    script = (UNITS[0].parents[1] / "device" / "provision.sh").read_text()
    socket = words[words.index("--socket") + 1]
    assert socket == "/var/lib/edgekd-push/agent/agent.sock"
    assert 'ln -sfn agent/agent.sock "$door/edgekd-agent"' in script
    assert words[words.index("--user") + 1] == "edgekd-push"


def test_server_talks_to_nobody_but_this_machine() -> None:
    service = parsed(UNITS[2])["Service"]
    assert (service["IPAddressDeny"], service["IPAddressAllow"]) == ("any", "localhost")
    assert service["RestrictAddressFamilies"] == "AF_UNIX AF_INET"
    assert service["Restart"] == "always"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong(unit, tmp_path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/usr/bin/python3", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []
