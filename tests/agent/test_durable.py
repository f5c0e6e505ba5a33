"""What reaches the disk, in which order."""

import os
from unittest import mock

import pytest
from edgekd_agent import durable


@pytest.fixture
def calls(monkeypatch):
    """Record the primitives while they do their work."""
    seen = []
    for name in ("create", "write", "fsync", "rename", "symlink", "unlink", "mkdir", "open_folder"):
        real = getattr(durable, name)

        def wrapped(*arguments, real=real, name=name):
            seen.append(name)
            return real(*arguments)

        monkeypatch.setattr(durable, name, wrapped)
    return seen


def test_file_is_durable_before_it_gets_its_name_and_the_name_before_it_returns(tmp_path, calls) -> None:
    durable.replace_file(tmp_path / "a", b"one")
    assert calls == ["create", "write", "fsync", "rename", "open_folder", "fsync"]
    assert (tmp_path / "a").read_bytes() == b"one"


def test_link_is_replaced_in_one_step(tmp_path, calls) -> None:
    (tmp_path / "current").symlink_to("old")
    durable.replace_link(tmp_path / "current", "new")
    assert calls == ["symlink", "rename", "open_folder", "fsync"]
    assert os.readlink(tmp_path / "current") == "new"


def test_left_over_of_a_killed_process_is_no_hindrance(tmp_path) -> None:
    (tmp_path / "a.new").write_bytes(b"half")
    (tmp_path / "current.new").symlink_to("half")
    durable.replace_file(tmp_path / "a", b"whole")
    durable.replace_link(tmp_path / "current", "whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "current"]


def test_write_goes_on_after_a_short_write(tmp_path) -> None:
    real = os.write
    with mock.patch("os.write", lambda descriptor, content: real(descriptor, content[:3])):
        durable.write_new(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_folders_are_durable_one_in_the_other(tmp_path, calls) -> None:
    durable.make_folder(tmp_path / "a" / "b")
    assert calls == ["mkdir", "open_folder", "fsync"] * 2
    durable.make_folder(tmp_path / "a" / "b")
    assert len(calls) == 6


def test_remove_tree_never_follows_a_link(tmp_path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "gone" / "inner").mkdir(parents=True)
    (tmp_path / "gone" / "inner" / "link").symlink_to(tmp_path / "kept")
    durable.remove_tree(tmp_path / "gone")
    durable.remove_tree(tmp_path / "absent")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]


def test_files_are_never_made_or_opened_through_a_link(tmp_path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    for opened in (durable.create, durable.open_append, durable.open_existing):
        with pytest.raises(OSError):
            opened(tmp_path / "link")
