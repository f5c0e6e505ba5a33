"""Rows of a view: what is written by one is found by all, damage costs a computation and no more."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from edgekd.core.errors import StorageError
from edgekd.distill.teacher_cache import rows as module
from edgekd.distill.teacher_cache.rows import Shelf, ViewRows

ROWS, ROW_BYTES = 200, 6
CONTENT = np.random.default_rng(0).integers(0, 256, (ROWS, ROW_BYTES), dtype=np.uint8)
ALL = np.arange(ROWS, dtype=np.int64)


@pytest.fixture
def opened(tmp_path):
    """Open a view's rows, read what is there; returns them and the notes."""

    def go(folder=tmp_path / "part" / "view-00000", label="logits/view-00000"):
        notes = []
        rows = ViewRows(Shelf(folder, label, ROWS, ROW_BYTES, notes.append, notes.append))
        rows.load()
        return rows, notes

    return go


def _fill(rows, ids):
    rows.add(ids, CONTENT[ids])


def test_what_one_wrote_another_reads(opened):
    one, _ = opened()
    ids = np.random.default_rng(1).permutation(ROWS)[:70]
    assert not one.has(ids).any()
    _fill(one, ids[:50])
    _fill(one, ids[50:])
    assert one.has(ids).all() and np.array_equal(one.take(ids), CONTENT[ids])
    assert not opened()[0].has(ids).any()  # nothing is on disk before a block is full
    one.flush()
    one.flush()
    other, notes = opened()
    assert np.array_equal(other.has(ALL), np.isin(ALL, ids)) and not notes
    assert np.array_equal(other.take(ids[::-1]), CONTENT[ids[::-1]])


def test_full_blocks_are_written_without_being_asked(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 60 * ROW_BYTES)
    one, _ = opened()
    for start in range(0, 150, 30):
        _fill(one, ALL[start : start + 30])
    assert len(list(tmp_path.rglob("*.zst"))) == 2
    assert opened()[0].has(ALL).sum() == 120


def test_two_writers_at_once_leave_what_both_computed(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 16 * ROW_BYTES)
    shares = [np.random.default_rng(seed).permutation(ROWS)[:150] for seed in range(4)]

    def work(ids):
        rows, notes = opened()
        for start in range(0, len(ids), 10):
            _fill(rows, ids[start : start + 10])
        rows.flush()
        return notes

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(work, shares))
    found, notes = opened()
    everything = np.unique(np.concatenate(shares))
    assert np.array_equal(np.flatnonzero(found.has(ALL)), everything) and not notes
    assert np.array_equal(found.take(everything), CONTENT[everything])
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def test_rows_that_are_here_stay_as_they_are(opened):
    one, other = opened()[0], opened()[0]
    _fill(one, ALL[:10])
    other.add(ALL[:20], 255 - CONTENT[:20])
    other.flush()
    one.load()
    assert np.array_equal(one.take(ALL[:10]), CONTENT[:10])
    assert np.array_equal(one.take(ALL[10:20]), 255 - CONTENT[10:20])


@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: content[:-1] + b"x", lambda _: b""])
def test_a_damaged_block_is_left_out_with_a_note(opened, tmp_path, damage):
    for ids in (ALL[:30], ALL[30:60]):
        one, _ = opened()
        _fill(one, ids)
        one.flush()
    first, second = sorted(tmp_path.rglob("*.zst"))
    first.write_bytes(damage(first.read_bytes()))
    again, notes = opened()
    assert again.has(ALL).sum() == 30
    assert len(notes) == 1 and "the block is left out and its rows are computed again" in notes[0]
    assert not first.exists() and second.exists()
    _fill(again, ALL[:60][~again.has(ALL[:60])])
    again.flush()
    assert np.array_equal(opened()[0].take(ALL[:60]), CONTENT[:60])


def test_a_block_of_another_key_is_left_out(opened, tmp_path):
    one, _ = opened(label="other/logits/view-00000")
    _fill(one, ALL)
    one.flush()
    rows, notes = opened()
    assert not rows.has(ALL).any() and "is of 'other/logits/view-00000'" in notes[0]


def test_a_full_disk_is_said_and_tried_again(opened, monkeypatch):
    write, refused = module.write_block, [True]

    def writing(*arguments):
        if refused[0]:
            raise StorageError("cannot write x: No space left on device")
        return write(*arguments)

    monkeypatch.setattr(module, "write_block", writing)
    one, notes = opened()
    for ids in (ALL[:30], ALL[30:60]):
        _fill(one, ids)
        one.flush()
    assert [str(note) for note in notes] == ["cannot write x: No space left on device"] * 2
    assert np.array_equal(one.take(ALL[:60]), CONTENT[:60])
    refused[0] = False
    one.flush()
    assert np.array_equal(opened()[0].take(ALL[:60]), CONTENT[:60])


def test_what_a_killed_writer_left_is_removed_after_a_day(opened, tmp_path):
    one, _ = opened()
    _fill(one, ALL)
    one.flush()
    left = [tmp_path / "part" / "view-00000" / f".x{age}.zst.abc.part" for age in (80_000, 90_000)]
    for path, age in zip(left, (80_000, 90_000), strict=True):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    assert opened()[0].has(ALL).all() and [path.exists() for path in left] == [True, False]


def test_a_table_larger_than_memory_allows_lies_in_a_file_without_a_name(opened, monkeypatch, tmp_path):
    few = psutil.virtual_memory()._replace(available=4 * ROWS * ROW_BYTES - 1)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: few)
    one, _ = opened()
    assert isinstance(one._table, np.memmap)
    _fill(one, ALL)
    one.flush()
    assert np.array_equal(one.take(ALL), CONTENT)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".zst"]
    monkeypatch.setattr(module.os, "posix_fallocate", _no_space)
    with pytest.raises(StorageError, match=r"more than a quarter of the memory.*No space left on device"):
        opened()


def _no_space(*arguments):
    raise OSError(28, "No space left on device")
