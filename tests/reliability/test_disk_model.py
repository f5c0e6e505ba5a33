"""The model of a disk that loses power, against states counted by hand."""

import pytest
from disk_model import Disk, Op

START = {"a": ("file", b"old")}


def trees(ops, start=START):
    disk = Disk(start)
    for op in ops:
        disk.apply(op)
    found = []
    for tree, is_sample in disk.states(0):
        assert not is_sample
        if tree not in found:
            found.append(tree)
    return found


def contents(ops, path="a", start=START) -> set:
    return {tree[path][1] if path in tree else None for tree in trees(ops, start)}


WRITE = [Op("create", "n"), Op("write", "n", b"new!")]


def test_what_was_not_changed_is_there() -> None:
    assert trees([]) == [START]


def test_new_file_that_nobody_fsynced_may_be_absent_empty_torn_zero_or_whole() -> None:
    assert contents(WRITE, "n") == {None, b"", b"ne", bytes(4), b"new!"}


def test_fsync_of_a_file_makes_its_content_durable_but_not_its_name() -> None:
    assert contents([*WRITE, Op("fsync", "n")], "n") == {None, b"new!"}


def test_fsync_of_a_folder_makes_a_name_durable_but_not_the_content() -> None:
    assert contents([*WRITE, Op("fsync_folder", "")], "n") == {b"", b"ne", bytes(4), b"new!"}


def test_rename_without_fsync_of_the_file_may_replace_the_old_one_by_nothing() -> None:
    found = contents([*WRITE, Op("rename", "n", b"a")])
    assert found == {b"old", b"", b"ne", bytes(4), b"new!"}


def test_good_protocol_leaves_old_or_new_and_then_new() -> None:
    ops = [*WRITE, Op("fsync", "n"), Op("rename", "n", b"a")]
    assert contents(ops) == {b"old", b"new!"}
    assert contents([*ops, Op("fsync_folder", "")]) == {b"new!"}


def test_changes_of_one_folder_are_independent_of_each_other() -> None:
    ops = [Op("symlink", "x", b"1"), Op("symlink", "y", b"2")]
    assert {("x" in tree, "y" in tree) for tree in trees(ops)} == {(a, b) for a in (True, False) for b in (True, False)}


def test_rename_between_folders_is_two_changes() -> None:
    start = {"d": ("dir", b""), "e": ("dir", b""), "d/a": ("file", b"old")}
    found = trees([Op("rename", "d/a", b"e/a")], start)
    assert {("d/a" in tree, "e/a" in tree) for tree in found} == {(a, b) for a in (True, False) for b in (True, False)}


def test_removed_name_may_still_be_there_until_its_folder_is_fsynced() -> None:
    assert contents([Op("unlink", "a")]) == {b"old", None}
    assert contents([Op("unlink", "a"), Op("fsync_folder", "")]) == {None}


def test_what_is_in_a_folder_is_lost_with_the_folder() -> None:
    ops = [Op("mkdir", "d"), Op("create", "d/f"), Op("fsync_folder", "d")]
    assert {("d" in tree, "d/f" in tree) for tree in trees(ops)} == {(False, False), (True, True)}


def test_line_added_to_a_file_may_be_torn() -> None:
    assert contents([Op("write", "a", b"+++-")]) == {b"old", b"old++", b"old" + bytes(4), b"old+++-"}
    assert contents([Op("write", "a", b"+++-"), Op("fsync", "a")]) == {b"old+++-"}


def test_cut_of_a_file_may_be_lost() -> None:
    assert contents([Op("truncate", "a", b"1")]) == {b"old", b"o"}


def test_very_many_changes_are_sampled_and_said_to_be() -> None:
    disk = Disk({})
    for number in range(20):
        disk.apply(Op("symlink", f"l{number}", b"x"))
    states = list(disk.states(3))
    assert all(is_sample for _, is_sample in states)
    assert {} in [tree for tree, _ in states]
    assert any(len(tree) == 20 for tree, _ in states)
    assert len(states) < 1000


@pytest.mark.parametrize("light", [(), ("n",)])
def test_light_files_are_there_whole_or_not_at_all(light) -> None:
    disk = Disk(START, light)
    for op in WRITE:
        disk.apply(op)
    found = {tree["n"][1] if "n" in tree else None for tree, _ in disk.states(0)}
    assert (b"ne" in found) == (not light)
    assert {None, b"new!"} <= found
