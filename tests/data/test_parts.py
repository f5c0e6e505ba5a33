import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.images import ArrayImages
from edgekd.data.parts import part_of, source_of_parts
from edgekd.data.sources import Part
from edgekd.data.task import Task

TASK = Task("classification", ("a", "b"))


def _part(labels: list[int]) -> Part:
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return Part(ArrayImages(pixels), np.array(labels, np.int64))


def _rows(part: Part | None) -> list[int]:
    assert part is not None
    return part.inputs.gather(np.arange(len(part.labels)))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("data/validation/x.tar", "val"),
        ("VAL_3.tar", "val"),
        ("train/test-0.tar", "test"),
        ("a/dev.1.tar", "val"),
        ("contest-0.tar", None),
        ("latest/0.tar", None),
    ],
)
def test_the_part_is_the_first_word_or_a_folder(path: str, part: str | None) -> None:
    assert part_of(path) == part


def test_one_part_alone_is_tested_on_labelled_rows_and_keeps_the_others() -> None:
    labels = [-1, -1, -1, -1, -1, *[0, 1] * 5]
    source = source_of_parts(TASK, {"train": _part(labels)}, kind="x")
    assert len(source.test.labels) == 2
    assert sorted(source.test.labels) == [0, 1]
    assert min(_rows(source.test)) >= 5
    assert sorted(_rows(source.train) + _rows(source.test)) == list(range(15))
    assert "test part: a fixed stratified 20% of all pictures" in source.notes


def test_parts_without_labels_are_left_out_of_judging() -> None:
    parts = {"train": _part([0, 1] * 3), "val": _part([1, -1, 0]), "test": _part([-1, -1])}
    source = source_of_parts(TASK, parts, kind="x", notes=("before",))  # type: ignore[arg-type]
    assert _rows(source.test) == [0, 2]
    assert source.val is None
    assert source.notes[0] == "before"
    assert "1 of 3 val pictures have no label and are left out" in source.notes
    parts["test"] = _part([1, 1])
    both = source_of_parts(TASK, parts, kind="x")  # type: ignore[arg-type]
    assert (_rows(both.val), _rows(both.test)) == ([0, 2], [0, 1])
    with pytest.raises(DataError, match="no picture of this x has a label"):
        source_of_parts(TASK, {"train": _part([-1] * 9)}, kind="x")
