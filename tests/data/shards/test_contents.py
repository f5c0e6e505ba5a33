import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import CorruptInput, DataError
from edgekd.data import contents as limits
from edgekd.data.shards import contents as module
from edgekd.data.shards.contents import OpenFiles, ShardContents
from edgekd.data.shards.index import read_index

Write = Callable[..., None]


@pytest.fixture
def stored(tmp_path: Path, write_shard: Write) -> ShardContents:
    paths = []
    for shard in range(3):
        paths.append(tmp_path / f"{shard}.tar")
        write_shard(paths[-1], {f"{row}.png": f"{shard}-{row}".encode() * (row + 1) for row in range(4)})
    return ShardContents([path.name for path in paths], paths, [read_index(path) for path in paths])


def test_contents_are_read_by_row_in_any_order(stored: ShardContents) -> None:
    assert len(stored) == 12
    assert [stored.read(row) for row in (11, 0, 6)] == [b"2-3" * 4, b"0-0", b"1-2" * 3]
    assert stored.sizes(np.array([11, 0])).tolist() == [12, 3]
    assert stored.name(6) == "1.tar: 2.png"
    assert stored.shard.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_stay_few_and_are_closed(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).write_bytes(bytes([number]))
    before = _open_descriptors()
    files = OpenFiles(most=3)
    for number in (*range(10), 0, 9):
        assert os.pread(files(tmp_path / str(number)), 1, 0) == bytes([number])
        assert _open_descriptors() <= before + 3
    del files
    assert _open_descriptors() == before


def test_contents_travel_to_another_process_without_descriptors(stored: ShardContents) -> None:
    stored.read(0)
    before = _open_descriptors()
    other = pickle.loads(pickle.dumps(stored))
    assert _open_descriptors() == before
    assert other.read(5) == stored.read(5)


def test_a_shard_that_shrinks_or_goes_is_named(stored: ShardContents, tmp_path: Path) -> None:
    os.truncate(tmp_path / "0.tar", 513)
    with pytest.raises(DataError, match=r"0\.tar: is shorter than it was") as caught:
        stored.read(0)
    assert not isinstance(caught.value, CorruptInput)
    (tmp_path / "1.tar").unlink()
    with pytest.raises(DataError, match=r"1\.tar: cannot be read: No such file"):
        stored.read(4)


def test_a_member_too_large_is_not_read(stored: ShardContents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PICTURE_BYTES", 3)
    monkeypatch.setattr(limits, "MAX_PICTURE_BYTES", 3)
    assert stored.read(0) == b"0-0"
    with pytest.raises(CorruptInput, match=r"0\.tar: 1\.png: .*6 bytes, at most 3 are read"):
        stored.read(1)
