"""What may be asked through the socket, and that nothing else may."""

import json

import pytest
from edgekd_agent.__main__ import _parser
from edgekd_agent.attend.words import FORMS, words_of
from edgekd_agent.errors import AgentError

DIGEST = "ab" * 32


def asked(*words, **more) -> list[str]:
    return words_of(json.dumps({"schema_version": 1, "words": words, **more}).encode())


ALLOWED = [
    (("hello",), ["hello"]),
    (("install", "--detach"), ["install", "--detach"]),
    (("rollback",), ["rollback"]),
    (("rollback", "--reason", "it drives into walls"), ["rollback", "--reason=it drives into walls"]),
    (("lock", "--owner", "ann; rm -rf /"), ["lock", "--owner=ann; rm -rf /"]),
    (("lock", "--owner", "--root=/tmp"), ["lock", "--owner=--root=/tmp"]),
    (("unlock", "--force", "--owner", "ann"), ["unlock", "--force", "--owner=ann"]),
    (("forgive", DIGEST), ["forgive", DIGEST]),
]


@pytest.mark.parametrize(("words", "expected"), ALLOWED)
def test_what_operators_need_is_allowed_and_values_stay_values(words, expected) -> None:
    found = asked(*words)
    assert found == expected
    options = _parser().parse_args(["--root", "/var/lib/edgekd", *found, "--json"])
    assert (options.command, str(options.root)) == (words[0], "/var/lib/edgekd")
    if words[0] == "lock":
        assert options.owner == words[2]


@pytest.mark.parametrize(
    "words",
    [
        ("serve",),
        ("recover",),
        ("attend", "--socket", "/x", "--user", "root"),
        ("upgrade", "/x", "--sha256", DIGEST, "--into", "/opt/edgekd"),
        ("verify", "/etc"),
        ("version",),
        ("--root", "/tmp", "hello"),
        ("hello", "--root", "/tmp"),
        ("hello", "--json"),
        ("install",),
        ("install", "--detach", "--detach"),
        ("install", "--detach", "--confirm-minutes", "1"),
        ("lock",),
        ("lock", "--owner"),
        ("lock", "--owner=ann"),
        ("lock", "--owner", "ann", "--owner", "bob"),
        ("lock", "--owner", "a\nb"),
        ("lock", "--owner", "x" * 1001),
        ("unlock", "--force"),
        ("forgive",),
        ("forgive", "../../etc/passwd"),
        ("forgive", DIGEST, DIGEST),
        ("forgive", "--help"),
        ("",),
        (),
    ],
)
def test_everything_else_is_refused(words) -> None:
    with pytest.raises(AgentError) as caught:
        asked(*words)
    assert caught.value.kind == "usage"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"hello",
        b"[]",
        b'{"words":["hello"]}',
        b'{"schema_version":2,"words":["hello"]}',
        b'{"schema_version":1,"words":"hello"}',
        b'{"schema_version":1,"words":[1]}',
        b'{"schema_version":1,"words":["hello"],"root":"/tmp"}',
        b'{"schema_version":1,"words":["serve"],"words":["hello"]}',
        b"[" * 10000,
        b"\xff",
    ],
)
def test_a_request_of_another_form_is_refused(request_bytes) -> None:
    with pytest.raises(AgentError) as caught:
        words_of(request_bytes)
    assert caught.value.kind == "usage"


def test_the_list_is_as_short_as_it_is() -> None:
    commands = {"hello", "want", "status", "metrics", "gc", "confirm", "install", "rollback", "forgive"}
    assert set(FORMS) == commands | {"lock", "unlock"}
