from pathlib import Path

import pytest

from edgekd.core.errors import DataError
from edgekd.data.shards.names import by_part, expanded, found, gaps, require_all


def test_expanded_counts_both_ends_and_keeps_zeros() -> None:
    assert expanded("a-{008..011}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    assert expanded("{8..11}.tar") == ["8.tar", "9.tar", "10.tar", "11.tar"]
    assert expanded("{0..1}-{2..3}") == ["0-2", "0-3", "1-2", "1-3"]
    assert expanded("plain.tar") == ["plain.tar"]


@pytest.mark.parametrize("pattern", ["{3..1}.tar", "{0..99999999}.tar"])
def test_expanded_refuses_rows_that_are_none(pattern: str) -> None:
    with pytest.raises(DataError, match="is no row of at most"):
        expanded(pattern)


def _files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_found_tells_what_is_missing_in_the_middle(tmp_path: Path) -> None:
    _files(tmp_path, "t-0.tar", "t-1.tar", "t-3.tar")
    paths, missing = found(tmp_path, ["t-{0..3}.tar", "t-*.tar"])
    assert [path.name for path in paths] == ["t-0.tar", "t-1.tar", "t-3.tar"]
    assert missing == ["t-2.tar"]
    with pytest.raises(DataError, match="no file fits 'u"):
        found(tmp_path, ["u-*.tar"])


def test_parts_follow_names_and_folders(tmp_path: Path) -> None:
    _files(
        tmp_path, "train-0.tar", "data/validation/0.tar", "Test_1.tar", "deep/train-1.tar", ".train-0.tar.index.json"
    )
    assert by_part(tmp_path, ".tar") == {
        "train": ["deep/train-1.tar", "train-0.tar"],
        "val": ["data/validation/0.tar"],
        "test": ["Test_1.tar"],
    }
    _files(tmp_path, "unclear.tar")
    with pytest.raises(DataError, match=r"unclear\.tar: is it train, val or test\? .* set data\.parts"):
        by_part(tmp_path, ".tar")


def test_without_parts_in_names_all_is_train(tmp_path: Path) -> None:
    assert by_part(_files(tmp_path, "b.tar", "a.tar"), ".tar") == {"train": ["a.tar", "b.tar"]}
    assert by_part(tmp_path / "nowhere", ".tar") == {}


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["t-000.tar", "t-001.tar", "t-003.tar"], ["t-002.tar"]),
        (["a1-9.tar", "a1-11.tar"], ["a1-10.tar"]),
        (["t-0.tar", "v-5.tar", "t-1.tar"], []),
        (["2024.tar", "9999.tar"], []),
        (["x-00000-of-00003.parquet", "x-00001-of-00003.parquet"], ["x-00002-of-00003.parquet"]),
        (["x.tar"], []),
    ],
)
def test_gaps_are_those_inside_numbered_rows(names: list[str], missing: list[str]) -> None:
    assert gaps(names) == missing


def test_missing_files_end_or_are_skipped() -> None:
    missing = {"train": ["a", "b"], "test": ["c"]}
    assert require_all(missing, 9, may_skip=True) == ("a", "b", "c")
    assert require_all({"train": []}, 9, may_skip=False) == ()
    with pytest.raises(DataError, match=r"a is missing, and 2 more, of 9 shards \(a, b, c\).*missing_shards=skip"):
        require_all(missing, 9, may_skip=False)
