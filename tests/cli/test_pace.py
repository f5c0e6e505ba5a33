"""What is left is told by the pace since a count began."""

import pytest

from edgekd.cli.pace import Pace, left_in_words
from edgekd.core.events import Event


def _left(pace, now_s, done, total, stage="a"):
    return pace.left_s(Event("progress", stage, done=done, total=total), now_s)


def test_what_an_earlier_run_did_does_not_count():
    pace = Pace()
    assert _left(pace, 100.0, 21, 30) is None
    assert _left(pace, 110.0, 22, 30) == pytest.approx(80.0)
    assert _left(pace, 112.0, 24, 30) == pytest.approx(6 * 12 / 3)
    assert _left(pace, 120.0, 30, 30) == 0.0


def test_nothing_is_said_without_a_total_or_while_nothing_moves():
    pace = Pace()
    assert [_left(pace, now, now, 0) for now in range(3)] == [None, None, None]
    assert [_left(pace, now, 4, 9) for now in range(3)] == [None, None, None]


def test_a_count_that_starts_again_is_another_and_phases_within_phases_are_apart():
    pace = Pace()
    assert [_left(pace, 10.0 * done, done, 4) for done in range(1, 4)] == [None, 20.0, 10.0]
    assert _left(pace, 31.0, 0, 50) is None  # a phase within
    assert _left(pace, 36.0, 25, 50) == pytest.approx(5.0)
    assert _left(pace, 40.0, 0, 50) is None  # the next such phase
    assert _left(pace, 41.0, 10, 50) == pytest.approx(4.0)
    assert _left(pace, 42.0, 3, 4) == pytest.approx(16.0)
    assert _left(pace, 43.0, 1, 4, stage="b") is None


@pytest.mark.parametrize(
    "left_s, words", [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (5401, "1.5 h"), (90000, "25.0 h")]
)
def test_words_have_the_unit_that_suits(left_s, words):
    assert left_in_words(left_s) == f"about {words} left"
