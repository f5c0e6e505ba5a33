"""One process and one operator at a time."""

import os

import pytest
from edgekd_agent import locks
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import Layout


def test_only_one_process_changes_the_device(tmp_path) -> None:
    layout = Layout(tmp_path)
    with locks.only_process(layout):
        assert locks.is_busy(layout)
        with pytest.raises(AgentError, match="another process") as caught, locks.only_process(layout, patience_s=0.1):
            pass
        assert caught.value.kind == "busy"
    assert not locks.is_busy(layout)
    with locks.only_process(layout):
        pass


def test_lock_ends_with_the_process_that_held_it(tmp_path) -> None:
    layout = Layout(tmp_path)
    pid = os.fork()
    if not pid:
        with locks.only_process(layout):
            os._exit(0)
    os.waitpid(pid, 0)
    with locks.only_process(layout, patience_s=0.0):
        pass


def test_device_that_was_never_provisioned_is_named(tmp_path) -> None:
    with pytest.raises(AgentError, match="provision") as caught, locks.only_process(Layout(tmp_path / "absent")):
        pass
    assert caught.value.exit_code == 5


def test_operator_keeps_others_out_until_they_give_it_back(tmp_path) -> None:
    layout = Layout(tmp_path)
    first = locks.reserve(layout, "ann@laptop")
    assert locks.reserve(layout, "ann@laptop") == first == locks.operator(layout)
    for attempt in (lambda: locks.reserve(layout, "bob"), lambda: locks.release(layout, "bob")):
        with pytest.raises(AgentError, match=r"reserved by ann@laptop for \d+ s") as caught:
            attempt()
        assert (caught.value.kind, caught.value.exit_code) == ("locked", 1)
    assert locks.release(layout, "ann@laptop")
    assert not locks.release(layout, "ann@laptop")
    assert locks.reserve(layout, "bob").owner == "bob"
    assert locks.release(layout, "ann@laptop", force=True)


@pytest.mark.parametrize("owner", ["", "x" * 101, "a\nb", "\x1b[31m"])
def test_owner_must_be_a_printable_name(tmp_path, owner) -> None:
    with pytest.raises(AgentError, match="is no name"):
        locks.reserve(Layout(tmp_path), owner)
