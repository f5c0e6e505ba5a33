"""`edgekd fleet` over simulated devices: what is printed, what is kept, and what the command ends with."""

import json

import pytest
from typer.testing import CliRunner

from edgekd.cli.main import app
from tools.reliability.simulated_devices import SimulatedDevice, SimulatedSource, SimulatedTransport, model

FLEET = {
    "schema_version": 1,
    "name": "plant",
    "rollout": {
        "waves": ["canary", "50%", "100%"],
        "health_wait_s": 0,
        "timeouts": {"reach_tries": 1, "poll_s": 0.01},
    },
    "groups": {"line": {"target": "cpu"}, "spare": {}},
}


class World:
    def __init__(self, folder, devices):
        self.folder, self.devices = folder, devices
        self.source = SimulatedSource({"line": model(2)})
        self.transport = SimulatedTransport({f"edgekd@{name}": one for name, one in devices.items()}, self.source)
        listed = [{"id": name, "address": f"edgekd@{name}", "group": one.group} for name, one in devices.items()]
        (folder / "fleet-repo" / "metadata").mkdir(parents=True)
        (folder / "fleet.yaml").write_text(json.dumps({**FLEET, "devices": listed}))

    def run(self, *words):
        result = CliRunner().invoke(app, ["fleet", *words, "-f", str(self.folder)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result

    def json(self, *words):
        result = self.run(*words, "--json")
        return json.loads(result.stdout), result.exit_code


@pytest.fixture
def make_world(tmp_path, monkeypatch):
    def make(**behaviours):
        devices = {
            f"d{n}": SimulatedDevice(
                f"d{n}", install_s=0.01, current=model(1), behaviour=behaviours.get(f"d{n}", "good")
            )
            for n in range(5)
        }
        world = World(tmp_path, devices)
        monkeypatch.setattr("edgekd.ship.transport.SshTransport", lambda *args: world.transport)
        monkeypatch.setattr("edgekd.ship.fleet.repository.RepositorySource", lambda repository: world.source)
        return world

    return make


def test_deploy_then_status_then_history(make_world):
    world = make_world()
    document, code = world.json("deploy", "line")
    deployed = document["deployments"][0]
    assert code == 0
    assert document["schema_version"] == 1
    assert {device["outcome"] for device in deployed["devices"]} == {"installed"}
    assert deployed["desired"]["version"] == 2
    assert deployed["halted"] is None
    found, code = world.json("status")
    assert code == 0
    assert all(device["is_as_desired"] and device["last_seen"] for device in found["devices"])
    records = world.json("history")[0]["records"]
    assert len(records) == 5
    verdict, code = world.json("history", "--verify")
    assert (verdict["is_whole"], verdict["records"], code) == (True, 5, 0)
    assert world.json("history", "--verify", "--expect", verdict["head"])[1] == 0
    assert world.json("history", "--verify", "--expect", "ab" * 32)[1] == 6


def test_dry_run_says_the_waves_and_touches_nothing(make_world):
    world = make_world()
    document, code = world.json("deploy", "line", "--dry-run")
    waves = document["deployments"][0]["waves"]
    assert [(wave["name"], wave["devices"]) for wave in waves] == [
        ("canary", ["d0"]),
        ("50%", ["d1", "d2"]),
        ("100%", ["d3", "d4"]),
    ]
    assert code == 0
    assert all(not one.events for one in world.devices.values())
    assert not (world.folder / "fleet-repo" / "fleet").exists()
    assert "no device is marked as canary" in world.run("deploy", "line", "--dry-run").stdout


def test_a_halted_deploy_says_why_and_ends_with_the_shared_code(make_world):
    world = make_world(d0="failing")
    result = world.run("deploy", "line")
    assert result.exit_code == 3
    assert "health: max_abs_error" in result.stdout
    assert "halted: 1 of the 1 devices" in result.stdout


def test_partial_failure_is_1_and_only_offline_is_4(make_world):
    world = make_world(d3="failing", d4="dead")
    text = (
        (world.folder / "fleet.yaml")
        .read_text()
        .replace('"rollout": {', '"rollout": {"halt": {"max_failed_share": 1}, ')
    )
    (world.folder / "fleet.yaml").write_text(text)
    result = world.run("deploy", "line")
    assert result.exit_code == 1
    assert "queued" in result.stdout
    world.devices["d3"].behaviour = "good"
    assert world.run("deploy", "line", "--retry-failed").exit_code == 4
    world.devices["d4"].behaviour = "good"
    document, code = world.json("status", "--converge")
    assert code == 0
    assert [(one["device_id"], one["outcome"]) for one in document["converged"]] == [("d4", "installed")]


def test_rollback_needs_a_choice(make_world):
    world = make_world()
    world.run("deploy", "line")
    assert world.run("rollback").exit_code == 2
    assert world.json("rollback", "d1", "--dry-run")[0]["devices"] == ["d1"]
    document, code = world.json("rollback", "d1")
    assert code == 0
    assert document["devices"][0]["to"]["version"] == 1
    assert world.devices["d2"].current == model(2)


def test_devices_of_a_lost_operator_are_unlocked(make_world):
    world = make_world()
    world.devices["d1"].operator = "bob@lab"
    assert world.run("deploy", "line").exit_code == 1
    assert world.run("unlock").exit_code == 2
    result = world.run("unlock", "d1")
    assert result.exit_code == 0
    assert "was reserved by bob@lab" in result.stdout
    assert world.run("deploy", "line").exit_code == 0


def test_a_lost_lock_of_the_fleet_is_broken(make_world):
    world = make_world()
    folder = world.folder / "fleet-repo" / "fleet"
    folder.mkdir()
    lock = {"owner": "bob@lab", "since": "2026-01-01T00:00:00+00:00", "host": "lab", "what": "fleet deploy"}
    (folder / "operator.lock").write_text(json.dumps(lock))
    result = world.run("deploy", "line")
    assert result.exit_code == 1
    assert "bob@lab on lab" in result.stderr
    assert "bob@lab" in world.json("status")[0]["held_by"]
    assert world.run("unlock", "--repository").exit_code == 0
    assert world.run("deploy", "line").exit_code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["deploy"], "say which groups"),
        (["deploy", "spare"], "has no devices"),
        (["deploy", "lines"], "did you mean line"),
        (["status", "d9"], "unknown device"),
        (["status", "--converge", "--no-contact"], "--no-contact"),
        (["history", "--expect", "ab"], "--verify"),
    ],
)
def test_what_makes_no_sense_is_usage(make_world, words, expected):
    result = make_world().run(*words)
    assert result.exit_code == 2
    assert expected in result.stderr


def test_init_writes_a_fleet_that_reads_back(tmp_path):
    words = ["fleet", "init", str(tmp_path / "plant"), "--group", "line", "--target", "cpu", "--device", "a=x@host"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    from edgekd.ship.fleet import read_fleet
    from edgekd.ship.fleet.inventory import Rollout

    fleet = read_fleet(tmp_path / "plant")
    assert fleet.device("a").is_canary
    assert fleet.rollout == Rollout(), "the template shows the defaults"
    assert CliRunner().invoke(app, words).exit_code == 2, "nothing is overwritten"


@pytest.mark.parametrize("words", [["--device", "nonsense"], ["--group", "Big Line"], ["--name", "a b"]])
def test_init_refuses_what_would_not_read_back(tmp_path, words):
    result = CliRunner().invoke(app, ["fleet", "init", str(tmp_path / "plant"), *words])
    assert result.exit_code == 2
    assert not (tmp_path / "plant").exists()


def test_a_missing_package_says_how_to_get_it(make_world, monkeypatch):
    world = make_world()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = world.run("status")
    assert result.exit_code == 5
    assert "edgekd[ship]" in result.stderr


def test_the_schema_is_published():
    result = CliRunner().invoke(app, ["schema", "fleet"])
    assert json.loads(result.stdout)["properties"]["groups"]


def test_the_live_table_counts_what_is_through():
    from io import StringIO

    from rich.console import Console

    from edgekd.cli.fleet_live import DeviceBoard
    from edgekd.core.events import Event

    board = DeviceBoard()
    for event in (
        Event("start", "d1", "edgekd@d1"),
        Event("start", "d2", "edgekd@d2"),
        Event("progress", "d1", "sent 1.0 of 2.0 MiB", 1, 2),
        Event("end", "d2", "failed: health: [bold]wrong[/bold]"),
    ):
        board(event)
    out = StringIO()
    Console(file=out, width=120).print(board.table())
    assert "1 devices at work; 1 failed" in out.getvalue()
    assert "sent 1.0 of 2.0 MiB" in out.getvalue()
