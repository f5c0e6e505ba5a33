"""Runs that share a teacher cache: the second asks the teacher once a stage."""

import re

import pytest

CACHED = ("train.augment_views=2", "train.epochs=3", "seeds=1", "compare_alone=false")


def _spared(events):
    found = (
        re.search(r"teacher cache: (\d+) of (\d+) passes of teacher were spared", event.message) for event in events
    )
    return [(int(match[1]), int(match[2])) for match in found if match]


@pytest.mark.slow
def test_a_second_run_reads_what_the_first_computed(run, tmp_path):
    settings = (*CACHED, f"train.teacher_cache={tmp_path / 'cache'}")
    report, first = run(tmp_path / "first", *settings, target="jetson-orin", method="kd")
    assert any("trained with the teacher cache" in note and "one of 2 views" in note for note in report.notes)
    ((spared, passes),) = _spared(first)
    # Two of three epochs show something new; what the first left out of its last batch is all that is computed again.
    assert passes == 3 * (passes // 3) and spared < passes / 3 + 1
    again, second = run(tmp_path / "second", *settings, target="jetson-orin", method="kd")
    assert _spared(second) == [(passes - 1, passes)]
    assert again.scores.distilled == report.scores.distilled
