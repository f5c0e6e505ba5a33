import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekd.core.errors import TargetError
from edgekd.ship.transport.answers import (
    exit_code_of_kind,
    hello_from,
    needs_from,
    release_from,
    status_from,
)

SHA = "ab" * 32
RELEASE = {"name": "net", "version": 2, "bundle_sha256": SHA}
HELLO = {
    "agent": "0.1.0",
    "device_id": "orin-1",
    "group": "line",
    "root_version": 1,
    "state": "idle",
    "current": RELEASE,
    "free_bytes": 5,
    "something_new": [1],
}
STATUS = {"state": "building", "is_busy": True, "current": None, "last": None, "operator": {"owner": "ann"}}
TEXT = st.text("ab\n\0é", max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(SHA),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.sampled_from([*RELEASE]), inner, max_size=3),
    max_leaves=6,
)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_what_agents_say_is_read_and_what_is_new_is_passed_over():
    hello = hello_from(HELLO, "h")
    assert (hello.device_id, hello.current.version) == ("orin-1", 2)
    status = status_from({**STATUS, "progress": {"step": 3, "steps": 6}}, "h")
    assert (status.operator, status.is_busy, status.progress) == ("ann", True, "(step 3 of 6)")


@pytest.mark.parametrize("seconds", [10**400, float("inf"), float("nan"), -1, "1"])
def test_seconds_that_make_no_sense_are_none(seconds):
    last = {"bundle_sha256": SHA, "result": "failed", "kind": "health", "reason": "", "seconds": seconds}
    assert status_from({**STATUS, "last": last}, "h").last.seconds == 0.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("agent", 1),
        ("device_id", None),
        ("root_version", "1"),
        ("root_version", True),
        ("current", []),
        ("current", {**RELEASE, "bundle_sha256": "../../etc"}),
        ("current", {**RELEASE, "version": "2"}),
    ],
)
def test_wrong_types_are_the_devices_fault(key, value):
    with pytest.raises(TargetError):
        hello_from({**HELLO, key: value}, "h")


def entry(**changes):
    return {"missing": [{"sha256": SHA, "size_bytes": 17 << 20, "blocks": ["x", "y"], **changes}]}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"missing": {}},
        {"missing": [1]},
        entry(sha256="../../etc/passwd"),
        entry(sha256="AB" * 32),
        entry(size_bytes=-1),
        entry(size_bytes=1.5),
        entry(blocks="x"),
        {"missing": entry()["missing"] * 5000},
    ],
)
def test_needs_that_make_no_sense_are_refused(document):
    with pytest.raises(TargetError):
        needs_from(document, "h")


def test_more_blocks_than_the_blob_has_are_not_believed():
    (need,) = needs_from(entry(blocks=["x"] * 100), "h")
    assert len(need.blocks) == 2


@CALM
@given(st.dictionaries(st.sampled_from([*HELLO, *STATUS, "missing", "release"]), ANYTHING))
def test_whatever_a_device_says_is_a_value_or_one_kind_of_error(document):
    for read in (hello_from, status_from, needs_from, release_from):
        try:
            read(document, "h")
        except TargetError as error:
            assert len(str(error)) < 1000


@pytest.mark.parametrize(
    ("kind", "code"), [("health", 3), ("incompatible", 4), ("space", 5), ("trust", 6), ("build", 1), ("nonsense", 1)]
)
def test_exit_codes_of_kinds(kind, code):
    assert exit_code_of_kind(kind) == code
