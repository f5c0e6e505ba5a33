"""The two small files of trust: exactly their format, and every problem at once."""

import json

import pytest
from edgekd_agent.trust import DesiredState, Device, TrustError, desired_bytes, parse_desired, parse_device, read_device
from parser_fuzzing import DESIRED, DEVICE_FILE
from tuf_repository import canonical


def _refused(parse, document) -> str:
    with pytest.raises(TrustError) as caught:
        parse(document if isinstance(document, bytes) else canonical(document))
    assert caught.value.kind == "schema"
    return caught.value.message


def test_desired_state_is_written_as_it_is_read():
    desired = parse_desired(canonical(DESIRED))
    assert isinstance(desired, DesiredState)
    assert desired_bytes(desired) == canonical(DESIRED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": True}, "schema_version"),
        ({"group": "Root"}, "no name of a group"),
        ({"group": "root"}, "no name of a group"),
        ({"group": "../canary"}, "no name of a group"),
        ({"name": ""}, "name ''"),
        ({"version": 0}, "version 0 is below 1"),
        ({"version": "3"}, "expected int"),
        ({"bundle_sha256": "AB" * 32}, "64 hexadecimal"),
        ({"bundle_size_bytes": 0}, "bundle_size_bytes 0"),
        ({"bundle_size_bytes": 1 << 40}, "is not in 1.."),
        ({"selectors": []}, "selectors: 0"),
        ({"selectors": [{}]}, "every device"),
        ({"selectors": [{"device": 1}]}, "expected str"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_wrong_desired_state_is_refused_with_the_reason(change, words):
    assert words in _refused(parse_desired, {**DESIRED, **change})


def test_desired_state_must_be_canonical_and_short():
    assert "canonical" in _refused(parse_desired, json.dumps(DESIRED).encode())
    assert "longer" in _refused(parse_desired, b" " * (1 << 17))


def test_device_is_read_in_any_layout(tmp_path):
    path = tmp_path / "device.json"
    path.write_text(json.dumps(DEVICE_FILE, indent=2))
    device = read_device(path)
    assert device == Device("robot-7", "canary", DEVICE_FILE["selector"])
    assert device.facts == {"device": "jetson-agx-orin-64gb", "device_id": "robot-7", "group": "canary"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device_id": "a b"}, "device_id 'a b'"),
        ({"device_id": ""}, "device_id ''"),
        ({"group": "timestamp"}, "name of a role"),
        ({"selector": {"device_id": "robot-8"}}, "facts of their own"),
        ({"selector": ["device"]}, "expected an object"),
        ({"schema_version": 9}, "schema_version"),
    ],
)
def test_wrong_device_file_is_refused_with_the_reason(change, words):
    assert words in _refused(parse_device, {**DEVICE_FILE, **change})


def test_every_problem_of_a_device_file_is_told_at_once():
    message = _refused(parse_device, {**DEVICE_FILE, "device_id": "a b", "group": "?"})
    assert "device_id" in message
    assert "group" in message


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 100_000, b" " * (1 << 17)])
def test_bytes_that_are_no_device_file_are_refused(content):
    assert _refused(parse_device, content)


def test_absent_and_linked_device_file_is_missing(tmp_path):
    (tmp_path / "real.json").write_bytes(canonical(DEVICE_FILE))
    (tmp_path / "link.json").symlink_to("real.json")
    for name in ("absent.json", "link.json"):
        with pytest.raises(TrustError) as caught:
            read_device(tmp_path / name)
        assert caught.value.kind == "missing"
