"""A block comes back as it was, or not at all."""

import hashlib
import json

import numpy as np
import pytest
import zstandard

from edgekd.core.errors import ConfigError, StorageError
from edgekd.distill.teacher_cache import blocks
from edgekd.distill.teacher_cache.blocks import Block, read_block, write_block


def _block(rows=50, row_bytes=12, seed=0):
    rng = np.random.default_rng(seed)
    return Block(rng.permutation(100)[:rows], rng.integers(0, 256, (rows, row_bytes), dtype=np.uint8))


def _named(folder, content):
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.zst"
    path.write_bytes(content)
    return path


def _made(folder, *, payload, magic=b"edgekdT1", **header):
    text = json.dumps({"label": "x", "rows": 2, "row_bytes": 4, **header}).encode()
    return _named(folder, magic + len(text).to_bytes(4, "little") + text + payload)


@pytest.mark.parametrize("row_bytes", [1, 3, 12])
def test_a_block_comes_back(tmp_path, row_bytes):
    block = _block(row_bytes=row_bytes)
    path = write_block(tmp_path / "new", block, "logits/view-00000")
    again = read_block(path, "logits/view-00000", rows=100, row_bytes=row_bytes)
    assert np.array_equal(again.ids, block.ids) and np.array_equal(again.records, block.records)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert write_block(tmp_path / "new", block, "logits/view-00000") == path


def test_what_is_alike_is_made_smaller(tmp_path):
    values = np.abs(np.random.default_rng(0).normal(size=(500, 64))).astype(np.float16)
    path = write_block(tmp_path, Block(np.arange(500), values.view(np.uint8)), "x")
    assert path.stat().st_size < 0.9 * values.nbytes


def test_every_flipped_byte_is_found(tmp_path):
    path = write_block(tmp_path, _block(rows=5, row_bytes=2), "x")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StorageError, match="is damaged"):
            read_block(path, "x", rows=100, row_bytes=2)
    for length in (0, 5, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StorageError, match="is empty" if length == 0 else "is damaged"):
            read_block(path, "x", rows=100, row_bytes=2)
    with pytest.raises(StorageError, match="cannot be read"):
        read_block(tmp_path / "none.zst", "x", rows=100, row_bytes=2)


def test_a_block_of_something_else_is_refused(tmp_path):
    path = write_block(tmp_path, _block(), "teacher-a/logits/view-00000")
    for label, row_bytes in (("teacher-b/logits/view-00000", 12), ("teacher-a/logits/view-00000", 8)):
        with pytest.raises(StorageError, match="is of 'teacher-a/logits/view-00000', rows of 12 bytes"):
            read_block(path, label, rows=100, row_bytes=row_bytes)
    with pytest.raises(StorageError, match=r"has rows \d+ to \d+, the split has 60"):
        read_block(path, "teacher-a/logits/view-00000", rows=60, row_bytes=12)
    with pytest.raises(StorageError, match="says it has 50 rows, the split has 10"):
        read_block(path, "teacher-a/logits/view-00000", rows=10, row_bytes=12)


def test_forged_blocks_are_refused_before_memory_is_taken(tmp_path):
    def squeezed(raw):
        return zstandard.ZstdCompressor().compress(raw)

    good = squeezed(np.arange(2).tobytes() + bytes(8))
    assert read_block(_made(tmp_path, payload=good), "x", rows=9, row_bytes=4).ids.tolist() == [0, 1]
    cases = {
        "does not hold the 24 bytes": {"payload": squeezed(bytes(1 << 24))},
        "cannot be decompressed": {"payload": b"no frame"},
        "is no block": {"payload": good, "magic": b"edgekdT2"},
        "says it has -1 rows": {"payload": good, "rows": -1},
        "says it has 2.0 rows": {"payload": good, "rows": 2.0},
    }
    for message, case in cases.items():
        with pytest.raises(StorageError, match=message):
            read_block(_made(tmp_path, **case), "x", rows=9, row_bytes=4)
    with pytest.raises(StorageError, match="no readable header"):
        read_block(_named(tmp_path, b"edgekdT1" + (4).to_bytes(4, "little") + b"[1]]"), "x", rows=9, row_bytes=4)
    with pytest.raises(StorageError, match="no readable header"):
        read_block(_named(tmp_path, b"edgekdT1" + (3).to_bytes(4, "little") + b"[1]"), "x", rows=9, row_bytes=4)
    with pytest.raises(StorageError, match="is no block"):
        read_block(_named(tmp_path, b"edgekdT1" + (1 << 31).to_bytes(4, "little") + b"{}"), "x", rows=9, row_bytes=4)


def test_without_zstandard_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"pip install 'edgekd\[cache\]'"):
        blocks.import_zstandard()
