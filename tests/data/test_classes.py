from pathlib import Path

import pytest

from edgekd.core.errors import DataError
from edgekd.data.classes import class_numbers, classes_of, named_classes


def test_classes_are_names_sorted_or_numbers_from_zero() -> None:
    assert classes_of(["b", None, "a", "b"], "x", None) == ("a", "b")
    assert classes_of([3, -1, None, 1], "x", None) == ("0", "1", "2", "3")
    assert classes_of([None, -1], "x", None) == ()
    assert classes_of([9], "x", ("only",)) == ("only",)
    with pytest.raises(DataError, match="x: labels are numbers and names, such as 1 and 'a'"):
        classes_of([1, "a"], "x", None)
    with pytest.raises(DataError, match=r"x: 3,000,000,001 classes.*is the label right\?"):
        classes_of([3_000_000_000], "x", None)


def test_labels_become_numbers_and_what_is_none_becomes_minus_one() -> None:
    assert class_numbers(["b", None, "a", -1, 1, -7], ("a", "b"), str).tolist() == [1, -1, 0, -1, 1, -1]
    with pytest.raises(DataError, match=r"row 1: label 'c' is none of the 2 classes \(a, b\); 2 such labels"):
        class_numbers(["b", "c", 2], ("a", "b"), lambda row: f"row {row}")


def test_names_are_read_where_there_are_any(tmp_path: Path) -> None:
    assert named_classes(tmp_path) is None
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    assert named_classes(tmp_path) == ("cat", "dog")
