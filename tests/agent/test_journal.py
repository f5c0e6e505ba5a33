"""The journal: what it says after torn and damaged writes."""

import json

import pytest
from edgekd_agent import journal
from edgekd_agent.layout import Layout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path)


def states(layout: Layout) -> list[str]:
    return [record.state for record in journal.read(layout.journal).records]


def test_records_come_back_in_order_with_their_facts(layout) -> None:
    journal.append(layout, "fetching", {"version": 3})
    journal.append(layout, "idle", {"result": "installed"})
    first, second = journal.read(layout.journal).records
    assert (first.sequence, first.state, first.facts) == (1, "fetching", {"version": 3})
    assert (second.sequence, second.facts["result"]) == (2, "installed")
    assert second.time_s >= first.time_s > 1e9


def test_absent_journal_is_empty(layout) -> None:
    assert journal.read(layout.journal) == journal.Reading()


@pytest.mark.parametrize("cut", [1, 10, 30])
@pytest.mark.parametrize("tail", [b"", b"\0" * 5000])
def test_torn_last_line_is_ignored_and_written_over(layout, cut, tail) -> None:
    for state in ("fetching", "building"):
        journal.append(layout, state, {})
    content = layout.journal.read_bytes()
    layout.journal.write_bytes(content[:-cut] + tail)
    reading = journal.read(layout.journal)
    assert reading.is_torn and not reading.is_damaged
    assert states(layout) == ["fetching"]
    assert journal.append(layout, "checking", {}).sequence == 2
    assert states(layout) == ["fetching", "checking"]


def test_damage_before_the_last_line_sets_the_journal_aside(layout) -> None:
    for state in ("fetching", "building", "checking"):
        journal.append(layout, state, {})
    content = bytearray(layout.journal.read_bytes())
    content[30] ^= 1
    layout.journal.write_bytes(content)
    assert journal.read(layout.journal).is_damaged
    journal.append(layout, "idle", {})
    assert states(layout) == ["idle"]
    assert [path.read_bytes() for path in layout.root.glob("journal.damaged-*")] == [bytes(content)]


def test_line_that_is_missing_is_damage(layout) -> None:
    for state in ("a", "b", "c", "d"):
        journal.append(layout, state, {})
    lines = layout.journal.read_bytes().splitlines(keepends=True)
    layout.journal.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert journal.read(layout.journal).is_damaged


def test_grown_journal_keeps_its_newest_lines_and_its_numbers(layout) -> None:
    for number in range(700):
        layout.journal.write_bytes(
            (layout.journal.read_bytes() if number else b"")
            + journal._line(journal.Record(number + 1, "idle", 1.0, {"reason": "x" * 200}))
        )
    journal.tidy(layout)
    kept = journal.read(layout.journal).records
    assert (len(kept), kept[-1].sequence) == (64, 700)
    assert journal.append(layout, "fetching", {}).sequence == 701


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error_and_can_be_added_to(tmp_path_factory, content) -> None:
    layout = Layout(tmp_path_factory.mktemp("journal"))
    layout.journal.write_bytes(content)
    assert journal.read(layout.journal).records == ()
    journal.append(layout, "idle", {})
    assert states(layout) == ["idle"]


def test_lines_are_json_with_a_checksum(layout) -> None:
    journal.append(layout, "fetching", {"name": "é"})
    checksum, body = layout.journal.read_bytes().rstrip(b"\n").split(b" ", 1)
    assert len(checksum) == 16
    assert json.loads(body)[:2] == [1, "fetching"]
