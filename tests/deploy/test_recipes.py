"""The Dockerfile and the playbook: parsed, and what they name compared with the files that they mean."""

import re
import shlex
from pathlib import Path

import yaml
from typer.testing import CliRunner

from edgekd.cli.main import app
from edgekd.ship.fleet.device_files import device_document, device_files
from edgekd.ship.fleet.inventory import Fleet

DEPLOY = Path(__file__).parents[2] / "deploy"
FLEET = Fleet.model_validate(
    {
        "schema_version": 1,
        "name": "plant",
        "groups": {"line": {"target": "jetson-orin-nx-16gb"}},
        "devices": [{"id": "orin-1", "address": "edgekd@h", "group": "line"}],
    }
)


def instructions():
    text = (DEPLOY / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_dockerfile_is_well_formed_and_stands_on_l4t():
    found = instructions()
    assert {word for word, _ in found} <= {
        *("ARG", "FROM", "RUN", "COPY", "USER", "VOLUME", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
    assert found[0] == ("ARG", "L4T_BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0")
    assert found[1] == ("FROM", "${L4T_BASE}")
    assert [text for word, text in found if word == "USER"] == ["edgekd"]


def test_the_container_runs_commands_that_the_agent_has():
    from edgekd_agent.__main__ import _COMMANDS

    found = dict(instructions())
    entry = yaml.safe_load(found["ENTRYPOINT"])
    copied = shlex.split(found["COPY"])[-1]
    assert copied in entry
    assert yaml.safe_load(found["CMD"])[0] in _COMMANDS
    health = yaml.safe_load(found["HEALTHCHECK"].partition("CMD ")[2])
    assert health[:3] == entry[:3]
    assert health[-1] in _COMMANDS


def tasks():
    (play,) = yaml.safe_load((DEPLOY / "ansible" / "provision.yaml").read_text())
    return play, play["tasks"]


def filled(text, folder):
    values = {"edgekd_here": str(folder), "playbook_dir": str(folder / "ansible"), "edgekd_from": "/from"}
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: values.get(match[1], match[0]), text)


def test_every_task_has_a_name_and_one_known_module():
    _, listed = tasks()
    known = {"file", "copy", "stat", "command"}
    for task in listed:
        modules = [key for key in task if key.startswith("ansible.builtin.")]
        assert task["name"]
        assert len(modules) == 1
        assert modules[0].removeprefix("ansible.builtin.") in known


def test_the_playbook_sends_what_the_script_reads():
    _, listed = tasks()
    sent = set()
    for task in listed:
        copy = task.get("ansible.builtin.copy")
        if copy is None:
            continue
        target = copy["dest"].removeprefix("{{ edgekd_from }}/")
        sources = task.get("loop", [copy.get("src")])
        sent |= {target if target and not target.endswith("/") else target + Path(one).name for one in sources if one}
        sent |= {target} if "content" in copy else set()
        for source in filter(None, sources):
            path = filled(source, DEPLOY)
            if "{{" not in path and "edgekd-agent.pyz" not in path:
                assert Path(path).exists(), path
    wanted = set(device_files(FLEET, FLEET.devices[0], Path(__file__), Path(__file__)))
    assert {name for name in wanted if not name.startswith("systemd/")} <= sent


def test_the_playbook_calls_the_script_with_options_that_it_has():
    _, listed = tasks()
    (command,) = [task["ansible.builtin.command"]["argv"] for task in listed if "ansible.builtin.command" in task]
    script = (DEPLOY / "device" / "provision.sh").read_text()
    assert all(f"{word} " in script for word in command if word.startswith("--"))


def test_the_device_is_named_alike_by_ansible_and_by_edgekd():
    import json

    _, listed = tasks()
    task = next(one for one in listed if "edgekd_device" in one.get("vars", {}))
    device = json.loads(
        json.dumps(task["vars"]["edgekd_device"])
        .replace("{{ inventory_hostname }}", "orin-1")
        .replace("{{ edgekd_group }}", "line")
        .replace("{{ edgekd_target }}", "jetson-orin-nx-16gb")
    )
    assert "sort_keys=true, separators=(',', ':')" in task["ansible.builtin.copy"]["content"]
    text = json.dumps(device, sort_keys=True, separators=(",", ":")) + "\n"
    assert text.encode() == device_document(FLEET, FLEET.devices[0])


def test_commands_in_the_guides_exist():
    texts = [(DEPLOY / "README.md").read_text(), (DEPLOY.parent / "docs" / "fleet.md").read_text()]
    texts += [(DEPLOY / "docker" / "Dockerfile").read_text(), (DEPLOY / "ansible" / "provision.yaml").read_text()]
    named = set(re.findall(r"edgekd (fleet|ship|targets|schema) ([a-z]+)", "\n".join(texts)))
    assert len(named) > 8
    for group, command in named:
        result = CliRunner().invoke(app, [group, command, "--help"])
        assert result.exit_code == 0, f"edgekd {group} {command}"


def test_the_inventory_example_names_what_the_playbook_uses():
    inventory = yaml.safe_load((DEPLOY / "ansible" / "inventory.yaml").read_text())
    play, _ = tasks()
    assert play["hosts"] in inventory
    host = inventory["edgekd"]["hosts"]["orin-1"]
    given = {*inventory["edgekd"]["vars"], *host, *play["vars"], "edgekd_device", "edgekd_agent", "edgekd_provisioned"}
    used = set(re.findall(r"edgekd_\w+", (DEPLOY / "ansible" / "provision.yaml").read_text()))
    assert used <= given
