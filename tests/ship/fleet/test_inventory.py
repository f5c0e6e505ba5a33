import json

import jsonschema
import pytest
import yaml

from edgekd.core.errors import ConfigError
from edgekd.ship.fleet.inventory import Fleet, chosen, keys_of, read_fleet, repository_of, target_of

WHOLE = """
schema_version: 1
name: plant-a
repository: releases
ssh: {known_hosts: known_hosts, identity: keys/fleet}
rollout:
  waves: [canary, 25%, 100%]
  concurrency: 4
  timeouts: {device_s: 900}
  halt: {max_failures: 3}
groups:
  line-a: {target: jetson-orin-nx-16gb}
  line-b:
    rollout: {concurrency: 1, halt: {max_failed_share: 0.5}}
devices:
  - {id: orin-1, address: edgekd@10.0.0.1, group: line-a, canary: true, labels: {hall: north}}
  - {id: orin-2, address: "edgekd@10.0.0.2:2222", group: line-a, labels: {hall: south}}
  - {id: nano-1, address: edgekd@10.0.0.3, group: line-b, target: jetson-orin-nano-8gb}
"""


def read(tmp_path, text):
    (tmp_path / "fleet.yaml").write_text(text)
    return read_fleet(tmp_path)


def test_a_whole_file_is_read(tmp_path):
    fleet = read(tmp_path, WHOLE)
    assert fleet.device("orin-1").is_canary
    assert [device.id for device in fleet.in_group("line-a")] == ["orin-1", "orin-2"]
    assert target_of(fleet, fleet.device("orin-1")) == "jetson-orin-nx-16gb"
    assert target_of(fleet, fleet.device("nano-1")) == "jetson-orin-nano-8gb"
    assert repository_of(fleet, tmp_path) == tmp_path / "releases"
    assert keys_of(fleet, tmp_path).identity == tmp_path / "keys/fleet"


def test_a_group_takes_from_the_fleet_what_it_does_not_say(tmp_path):
    rollout = read(tmp_path, WHOLE).rollout_of("line-b")
    assert rollout.concurrency == 1
    assert rollout.waves == ("canary", "25%", "100%")
    assert (rollout.halt.max_failures, rollout.halt.max_failed_share) == (3, 0.5)
    assert rollout.timeouts.device_s == 900


def test_all_problems_are_reported_at_once(tmp_path):
    text = """
schema_version: 2
name: "bad name"
colour: red
rollout: {waves: [10%, 5%, 100%], concurrency: 0, halt: {max_failed_share: 2}}
groups: {"Line A": {}, line-b: {speed: 1}}
devices:
  - {id: one, address: "not an address", group: line-b}
  - {id: one, address: edgekd@b, group: line-x}
  - {id: "../etc", address: edgekd@b, group: line-b, cannary: true}
  - {address: edgekd@c, group: line-b}
"""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    for expected in (
        "schema_version",
        "name: is not letters",
        "colour: unknown key",
        "rollout.waves: percentages of waves must grow",
        "rollout.concurrency",
        "rollout.halt.max_failed_share",
        "groups.Line A: is not a-z",
        "groups.line-b.speed: unknown key",
        "devices.0.address: is not user@host",
        "the id 'one' is given 2 times",
        "the address 'edgekd@b' is given 2 times",
        "devices.1.group: unknown group 'line-x'",
        "devices.2.id",
        "devices.2.cannary: unknown key",
        "devices.3.id: missing",
    ):
        assert expected in message, expected


@pytest.mark.parametrize(
    "waves",
    ["[]", "[canary]", "[10%]", "[100%, canary]", "[0%, 100%]", "[10%, 10%, 100%]", "[half, 100%]", "[10%, 200%]"],
)
def test_waves_that_make_no_sense_are_refused(tmp_path, waves):
    with pytest.raises(ConfigError, match="waves"):
        read(tmp_path, WHOLE.replace("[canary, 25%, 100%]", waves))


def test_the_published_schema_says_the_same(tmp_path):
    schema = Fleet.model_json_schema()
    jsonschema.validate(yaml.safe_load(WHOLE), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(WHOLE), "colour": "red"}, schema)
    json.dumps(schema)


@pytest.mark.parametrize(
    ("ids", "group", "labels", "expected"),
    [
        ([], None, [], ["orin-1", "orin-2", "nano-1"]),
        (["orin-2"], None, [], ["orin-2"]),
        ([], "line-a", ["hall=south"], ["orin-2"]),
        ([], None, ["hall=north"], ["orin-1"]),
    ],
)
def test_devices_are_chosen_by_name_group_and_label(tmp_path, ids, group, labels, expected):
    assert [device.id for device in chosen(read(tmp_path, WHOLE), ids, group, labels)] == expected


@pytest.mark.parametrize(
    ("ids", "group", "labels", "word"),
    [(["orin-9"], None, [], "orin-1"), ([], "line-c", [], "line-a"), ([], None, ["hall"], "key=value")],
)
def test_a_choice_of_nothing_is_an_error(tmp_path, ids, group, labels, word):
    with pytest.raises(ConfigError, match=word):
        chosen(read(tmp_path, WHOLE), ids, group, labels)
    with pytest.raises(ConfigError, match="no device"):
        chosen(read(tmp_path, WHOLE), ["orin-1"], "line-b", [])


def test_what_is_no_mapping_is_an_error(tmp_path):
    for text in ("[1, 2]", "groups: 5\nschema_version: 1\nname: a\n", "groups: {a: 7}\nschema_version: 1\nname: a\n"):
        with pytest.raises(ConfigError):
            read(tmp_path, text)
