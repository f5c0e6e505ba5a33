from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import DataError
from edgekd.data.splits import balanced_quotas, held_out_rows, limited_rows, proportional_quotas, rows_by_quota

_COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@given(_COUNTS, st.data())
def test_proportional_quotas_sum_and_stay_within_the_classes(counts: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(counts)))
    quotas = proportional_quotas(np.array(counts), total)
    assert quotas.sum() == total
    assert all(0 <= quota <= count for quota, count in zip(quotas, counts, strict=True))
    if total >= sum(count > 0 for count in counts):
        assert all(quota > 0 for quota, count in zip(quotas, counts, strict=True) if count)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_proportional_quotas_are_within_one_of_the_exact_share(counts: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(counts)))
    shares = [Fraction(count * total, sum(counts)) for count in counts]
    quotas = proportional_quotas(np.array(counts), total)
    if all(share >= 1 for share in shares):
        assert all(abs(int(quota) - share) < 1 for quota, share in zip(quotas, shares, strict=True))


def test_proportional_quotas_gives_the_largest_remainders_the_rest() -> None:
    assert proportional_quotas(np.array([47, 16, 16, 21]), 10).tolist() == [5, 2, 1, 2]


def test_proportional_quotas_gives_rare_classes_one_row_from_the_largest() -> None:
    assert proportional_quotas(np.array([1000, 1, 0, 1]), 10).tolist() == [8, 1, 0, 1]


@given(_COUNTS, st.integers(0, 600))
def test_balanced_quotas_differ_by_at_most_one_between_classes_with_rows_left(counts: list[int], total: int) -> None:
    quotas = balanced_quotas(np.array(counts), total)
    assert quotas.sum() == min(total, sum(counts))
    assert all(0 <= quota <= count for quota, count in zip(quotas, counts, strict=True))
    growing = [quota for quota, count in zip(quotas, counts, strict=True) if quota < count]
    assert not growing or max(quotas) - min(growing) <= 1


def test_rows_by_quota_draws_exactly_the_quota_of_each_class() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 0])
    rows = rows_by_quota(labels, np.array([2, 0, 1]), seed=3)
    assert np.bincount(labels[rows], minlength=3).tolist() == [2, 0, 1]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_rows_by_quota_draws_every_row_equally_often() -> None:
    labels = np.zeros(10, np.int64)
    draws = np.concatenate([rows_by_quota(labels, np.array([3]), seed) for seed in range(2000)])
    counts = np.bincount(draws, minlength=10)
    assert abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=80), st.floats(0.05, 0.95), st.integers(0, 5))
def test_held_out_rows_partition_and_leave_every_class_a_row(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array(labels, np.int64)
    try:
        kept, held_out = held_out_rows(array, fraction=fraction, seed=seed)
    except DataError:
        rows_that_may_go = len(labels) - len(set(labels))
        assert rows_that_may_go == 0 or round(len(labels) * fraction) <= len(set(labels))
        return
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert set(array[kept]) == set(labels)
    assert len(held_out) <= round(len(labels) * fraction)


def test_held_out_rows_takes_the_same_share_of_every_class() -> None:
    labels = np.repeat(np.arange(4), [100, 40, 20, 60])
    _, held_out = held_out_rows(labels, fraction=0.25, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [25, 10, 5, 15]


def test_held_out_rows_depends_on_the_seed_only() -> None:
    labels = np.arange(200) % 10
    first, again, other = (held_out_rows(labels, fraction=0.2, seed=seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_held_out_rows_fails_with_the_numbers_when_nothing_can_be_held_out() -> None:
    with pytest.raises(DataError, match=r"0\.15 of 3 pictures in 3 classes"):
        held_out_rows(np.array([0, 1, 2]), fraction=0.15, seed=0)


def test_limited_rows_keeps_everything_when_there_are_fewer() -> None:
    assert limited_rows(np.array([0, 1, 0]), limit=3, seed=0).tolist() == [0, 1, 2]
    assert limited_rows(np.array([0, 1, 0]), limit=None, seed=0).tolist() == [0, 1, 2]


def test_limited_rows_keeps_class_shares() -> None:
    labels = np.repeat(np.arange(3), [60, 30, 10])
    rows = limited_rows(labels, limit=20, seed=0)
    assert np.bincount(labels[rows]).tolist() == [12, 6, 2]
