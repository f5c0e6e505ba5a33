import csv
import io
import zipfile

import numpy as np
import pytest

from edgekd.core.errors import DataError, StorageError
from edgekd.data.text import Corpus, Table, read_corpus
from edgekd.data.text.corpus import label_numbers, read_table

GOOD, BAD = "a fine film", "a dull film"


def test_tsv_takes_quotes_as_they_stand_and_csv_reads_them():
    assert read_table(b'say "no"\t1\n"a\t0\n', "x.tsv") == Table(('say "no"', '"a'), ("1", "0"))
    texts = ['she said "no", twice', "two\nlines", "plain"]
    content = io.StringIO()
    csv.writer(content).writerows([["label", "text"], *(["pos", text] for text in texts)])
    assert read_table(content.getvalue().encode(), "x.csv") == Table(tuple(texts), ("pos",) * 3)


@pytest.mark.parametrize(
    "content",
    ["sentence\tlabel\none\t1\n", "\ufeffLabel\tid\tTEXT\n1\t7\tone\n", "one\t1", "one \t 1\r\n", "\n\none\t1\n\n"],
)
def test_header_order_and_line_ends_do_not_matter(content):
    assert read_table(content.encode(), "x.tsv") == Table(("one",), ("1",))


def test_unicode_line_separators_stay_inside_a_text():
    assert read_table("a\u2028b\x85c\t1\n".encode(), "x.tsv").texts == ("a\u2028b\x85c",)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"one\t1\ntwo\n", "x.tsv", "x.tsv, line 2: 1 columns where 2 are expected"),
        (b"text\tlabel\none\t1\ta\n", "x.tsv", "line 2: 3 columns where 2"),
        (b"one\t1\n \t0\n", "x.tsv", "line 2: empty text"),
        (b"one\t1\ntwo\t \n", "x.tsv", "line 2: empty label"),
        (b'"one,1\n', "x.csv", "line 1: unexpected end"),
        (b"\xff\xfe", "x.tsv", "not UTF-8 text at byte 0"),
        (b"text\tlabel\n", "x.tsv", "holds no text"),
        (b"", "x.tsv", "holds no text"),
        (b"a" * 200_000 + b"\t1\n", "x.tsv", "line 1: field larger"),
    ],
)
def test_broken_tables_are_refused_with_their_line(content, name, message):
    with pytest.raises(DataError, match=message):
        read_table(content, name)


def test_classes_are_those_of_training_and_sorted_by_value():
    assert Corpus(Table(("a", "b", "c"), ("10", "9", "10"))).classes == ("9", "10")
    assert Corpus(Table(("a", "b", "c"), ("no", "10", "9"))).classes == ("10", "9", "no")
    table = Table(("a", "b", "c"), ("10", "9", "10"))
    np.testing.assert_array_equal(label_numbers(table, ("9", "10"), "x"), [1, 0, 1])
    with pytest.raises(DataError, match="'10' of text 1 is not in the training part"):
        label_numbers(table, ("9",), "x")


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_archive_and_folder_give_the_same_parts(tmp_path):
    members = {"train.tsv": f"{GOOD}\t1\n{BAD}\t0\n", "dev.csv": f"{BAD},0\n", "test.tsv": f"{GOOD}\t1\n"}
    archive = _zip(tmp_path / "x.zip", {f"wrapped/{name}": content for name, content in members.items()})
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in members.items():
        (folder / name).write_text(content)
    expected = Corpus(Table((GOOD, BAD), ("1", "0")), test=Table((GOOD,), ("1",)), val=Table((BAD,), ("0",)))
    assert read_corpus(archive) == read_corpus(folder) == expected


def test_one_file_is_all_training(tmp_path):
    path = tmp_path / "x.TSV"
    path.write_text(f"{GOOD}\t1\n")
    assert read_corpus(path) == Corpus(Table((GOOD,), ("1",)))


def test_archives_without_a_part_or_with_one_twice_are_refused(tmp_path):
    row = f"{GOOD}\t1\n"
    with pytest.raises(DataError, match="holds no test table"):
        read_corpus(_zip(tmp_path / "a.zip", {"train.tsv": row, "dev.tsv": row}))
    with pytest.raises(DataError, match=r"dev.tsv and val.tsv are the same part"):
        read_corpus(_zip(tmp_path / "b.zip", {"train.tsv": row, "test.tsv": row, "dev.tsv": row, "val.tsv": row}))
    with pytest.raises(DataError, match=r"b.zip:test.tsv, line 1"):
        read_corpus(_zip(tmp_path / "b.zip", {"train.tsv": row, "test.tsv": "one\n"}))
    (tmp_path / "c.txt").write_text(row)
    with pytest.raises(DataError, match="neither a folder nor a complete zip or tar"):
        read_corpus(tmp_path / "c.txt")


def test_too_large_a_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "x.tsv"
    path.write_text(f"{GOOD}\t1\n")
    monkeypatch.setattr("edgekd.data.text.corpus.MAX_MEMBER_BYTES", 4)
    with pytest.raises(DataError, match="14 bytes, at most 4"):
        read_corpus(path)


def test_sst2_is_read_whole(shared_data):
    path = shared_data / "text" / "sst2_glue.zip"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    corpus = read_corpus(path)
    assert [len(part) for part in (corpus.train, corpus.val, corpus.test)] == [60_614, 6_735, 872]
    assert corpus.classes == ("0", "1")
    assert corpus.test.labels.count("1") == 444  # of the GLUE dev set, as its publishers count
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("test.tsv").decode().split("\n")[1:-1]
    assert [f"{text} \t{label}" for text, label in zip(corpus.test.texts, corpus.test.labels, strict=True)] == lines


def test_an_unreadable_file_is_a_storage_error(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\t1\n")
    import edgekd.data.text.corpus as module

    class Unreadable(type(path)):
        def read_bytes(self):
            raise PermissionError(13, "Permission denied")

    with pytest.raises(StorageError, match="Permission denied"):
        module._content(Unreadable(path))
