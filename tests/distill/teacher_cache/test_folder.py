"""What lies in a folder of caches, and removing one of them."""

import json
import os

import pytest

from edgekd.core.errors import StorageError
from edgekd.distill.teacher_cache import entries, find, remove, size_in_words
from edgekd.distill.teacher_cache.folder import bytes_in


@pytest.fixture
def root(tmp_path):
    for age, key in ((1, "abc1"), (2, "abd2")):
        for view in range(age):
            block = tmp_path / key / "logits-1" / f"view-0000{view}" / "x.zst"
            block.parent.mkdir(parents=True)
            block.write_bytes(bytes(100))
        document = tmp_path / key / "key.json"
        document.write_text(json.dumps({"data": key}))
        for path in (tmp_path / key).rglob("*"):
            os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "not-one").mkdir()
    return tmp_path


def test_caches_are_listed_the_oldest_first(root):
    first, second = entries(root)
    assert (first.folder.name, first.parts, first.facts) == ("abd2", {"logits-1": 2}, {"data": "abd2"})
    assert first.size_bytes == 200 + len('{"data": "abd2"}') and first.changed == 998
    assert second.folder.name == "abc1" and bytes_in(root) == first.size_bytes + second.size_bytes
    (root / "abc1" / "key.json").write_text("{")
    assert entries(root)[1].facts == {}


def test_a_cache_is_found_by_how_its_key_begins_and_removed(root):
    with pytest.raises(StorageError, match=r"2 caches in .* have a key that begins with 'ab'; there are: abd2, abc1"):
        find(root, "ab")
    for key in ("", "x"):
        with pytest.raises(StorageError, match="caches in .* have a key that begins with"):
            find(root, key)
    remove(find(root, "abc"))
    assert [entry.folder.name for entry in entries(root)] == ["abd2"] and (root / "not-one").exists()
    with pytest.raises(StorageError, match="no folder of teacher caches"):
        entries(root / "none")


def test_sizes_in_words():
    assert [size_in_words(size) for size in (1.5e6, 2.345e9)] == ["1.5 MB", "2.35 GB"]
