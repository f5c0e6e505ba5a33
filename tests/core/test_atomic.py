import json
import os

import pytest

from edgekd.core import atomic
from edgekd.core.errors import StorageError


def test_write_json_can_be_read_back(tmp_path):
    atomic.write_json(tmp_path / "a" / "b.json", {"x": [1, 2]})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"x": [1, 2]}


def test_write_json_refuses_nan_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "b.json"
    atomic.write_json(target, 1)
    with pytest.raises(ValueError):
        atomic.write_json(target, float("nan"))
    assert target.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["b.json"]


def test_replacing_keeps_the_old_file_and_leaves_nothing_when_the_block_fails(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_replacing_syncs_the_file_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b)))
    atomic.write_text(tmp_path / "f", "x")
    assert calls == ["fsync", "rename", "fsync"]


def test_a_full_disk_is_a_storage_error_that_names_the_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"out\.bin.*No space left"):
        atomic.write_bytes(tmp_path / "out.bin", b"x")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match="cannot write"):
        atomic.write_text(tmp_path / "f" / "g", "x")
