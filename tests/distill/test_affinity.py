"""Processes that train together on CPUs have CPUs of their own while they do."""

import json
import os
from pathlib import Path

import pytest

from edgekd.distill.affinity import share_of
from tests.distill.test_ranks import in_two_processes


@pytest.mark.parametrize(
    ("told", "shares"),
    [
        ([("a", [0, 1, 2, 3])] * 2, [[0, 1], [2, 3]]),
        ([("a", [0, 1, 2, 3, 4])] * 2, [[0, 1], [2, 3]]),
        ([("a", [0])] * 2, [[0], [0]]),
        ([("a", [0, 1]), ("b", [0, 1])], [[0, 1], [0, 1]]),
        ([("a", [0, 1]), ("a", [2, 3])], [[0, 1], [2, 3]]),
        ([("a", [4, 6]), ("b", [0]), ("a", [4, 6])], [[4], [0], [6]]),
    ],
    ids=["halves", "one left over", "too few", "two machines", "bound already", "interleaved"],
)
def test_those_that_share_cpus_divide_them(told, shares):
    assert [share_of(told, index) for index in range(len(told))] == shares


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no processes to CPUs")
def test_all_threads_are_bound_for_the_training_and_free_after_it(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    in_two_processes([tmp_path], child=Path(__file__).with_name("affinity_child.py"))
    allowed = sorted(os.sched_getaffinity(0))
    part = len(allowed) // 2
    for rank in (0, 1):
        before, within, after = json.loads((tmp_path / f"rank{rank}.json").read_text())
        own = allowed[rank * part :][:part] or allowed
        assert before["mine"] == before["other"] == allowed
        assert within["mine"] == within["other"] == own
        assert within["threads"] == min(before["threads"], len(own))
        assert before == after
