"""The data set `text`: its parts, its vocabulary from what is trained on, its digest and its notes."""

import sys

import numpy as np
import pytest

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data import DataConfig, describe, load_dataset, train_batches
from edgekd.data.augment import augmentation

pytest.importorskip("tokenizers", reason="extra 'text' is not installed")

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]


def _rows(count, seed, extra=()):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(count)]
    return [(text, "odd" if len(text.split()) % 2 else "even") for text in texts] + list(extra)


def _write(path, rows):
    path.write_text("\n".join(f"{text}\t{label}" for text, label in rows) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    for name, count, seed in (("train", 60, 0), ("dev", 12, 1), ("test", 20, 2)):
        _write(tmp_path / f"{name}.tsv", _rows(count, seed))
    return tmp_path


def _load(path, **options):
    return load_dataset(DataConfig(name="text", path=str(path), **options))


def _text(dataset, row):
    return [dataset.tokenizer.vocabulary[number] for number in row if number]


def test_parts_of_a_folder_become_tokens_row_by_row(folder):
    dataset = _load(folder, length=10)
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [60, 12, 20]
    assert dataset.task.targets == ("even", "odd")
    assert (dataset.input_shape, dataset.in_channels, dataset.mean) == ((10,), 0, ())
    assert dataset.vocabulary == len(dataset.tokenizer.vocabulary)
    for split, rows in ((dataset.train, _rows(60, 0)), (dataset.test, _rows(20, 2))):
        tokens = split.inputs.gather(np.arange(len(rows)))
        assert [_text(dataset, row) for row in tokens] == [["[CLS]", *text.split(), "[SEP]"] for text, _ in rows]
        assert [dataset.task.targets[label] for label in split.labels] == [label for _, label in rows]
    assert describe(dataset)["shape"] == [10]


def test_one_table_is_divided_the_same_for_every_seed_of_the_run(tmp_path):
    path = _write(tmp_path / "all.tsv", _rows(100, 3))
    one, other = _load(path, seed=0), _load(path, seed=1)
    tests = [split.inputs.gather(np.arange(len(split))) for split in (one.test, other.test)]
    assert len(one.test) == 20 and _text(one, tests[0][0]) == _text(other, tests[1][0])
    assert len(one.train) + len(one.val) == 80
    assert len(one.val) == 12
    assert any("fixed stratified 20%" in note for note in one.notes)
    assert one.digest != other.digest


def test_limit_comes_before_the_held_out_split(tmp_path):
    dataset = _load(_write(tmp_path / "all.tsv", _rows(100, 3)), limit=40)
    assert [len(split) for split in (dataset.train, dataset.val, dataset.test)] == [34, 6, 20]


def test_the_vocabulary_is_learnt_from_training_texts_alone(tmp_path):
    rows = _rows(60, 0)
    _write(tmp_path / "train.tsv", rows)
    _write(tmp_path / "dev.tsv", [("omega omega", "even")] * 9)
    _write(tmp_path / "test.tsv", [("sigma sigma", "even")] * 9)
    dataset = _load(tmp_path)
    assert "alpha" in dataset.tokenizer.vocabulary
    assert not {"omega", "sigma", "##ga", "##igma"} & set(dataset.tokenizer.vocabulary)
    small = _load(tmp_path, vocabulary_size=40)
    assert len(small.tokenizer.vocabulary) == 40


def test_a_vocabulary_given_is_used_as_it_is(folder, tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    dataset = _load(folder, vocabulary=str(vocabulary))
    assert dataset.vocabulary == 12
    assert dataset.digest != _load(folder).digest
    assert any("12 tokens of" in note for note in dataset.notes)
    with pytest.raises(ConfigError, match="no such file"):
        _load(folder, vocabulary=str(tmp_path / "nothing.txt"))


def test_what_was_cut_and_what_is_repeated_is_noted(tmp_path):
    _write(tmp_path / "train.tsv", _rows(60, 0, [("alpha " * 20, "even")]))
    _write(tmp_path / "test.tsv", _rows(10, 9, [(_rows(60, 0)[0][0], "even")]))
    notes = _load(tmp_path, length=9).notes
    assert "1 of 9 val texts are cut to 9 tokens (data.length)" in notes  # the long one was drawn into that split
    assert "1 of 11 test texts are in the training part too" in notes


def test_digest_follows_texts_labels_and_length(folder):
    same, shorter = _load(folder), _load(folder, length=9)
    assert same.digest == _load(folder).digest != shorter.digest
    rows = _rows(20, 2)
    _write(folder / "test.tsv", [*rows[:-1], (rows[-1][0], {"odd": "even", "even": "odd"}[rows[-1][1]])])
    assert _load(folder).digest != same.digest


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a b", "x")] * 9, "1 different labels"),
        ([(f"a {i}", str(i)) for i in range(1001)], "1001 different labels in 1001 training texts"),
    ],
)
def test_label_columns_that_cannot_be_right_are_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        _load(_write(tmp_path / "all.tsv", rows))


def test_options_of_texts_and_of_pictures_do_not_mix(folder):
    with pytest.raises(ConfigError, match="holds no texts: remove data.length"):
        load_dataset(DataConfig(name="digits", length=8))
    with pytest.raises(ConfigError, match="holds no pictures: remove data.resolution"):
        _load(folder, resolution=32)
    with pytest.raises(PreconditionError, match=r"needs data.path: a .tsv or .csv"):
        load_dataset(DataConfig(name="text"))


def test_without_tokenizers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PreconditionError, match=r"edgekd\[text\]"):
        _load(folder)


def test_training_batches_are_token_numbers(folder):
    batch = next(train_batches(_load(folder).train, batch_size=8, epoch=0, seed=0, augment=augmentation("none")))
    assert batch.inputs.dtype == batch.labels.dtype and batch.inputs.shape == (8, 32)


def test_word_dropout_takes_words_out_and_closes_up():
    rng = np.random.default_rng(0)
    texts = np.zeros((500, 12), np.int64)
    for row, length in zip(texts, rng.integers(2, 13, 500), strict=True):
        row[:length] = [2, *rng.integers(4, 30, length - 2), 3]
    labels = np.arange(500)
    dropped, same = augmentation("word-dropout")(texts, labels, rng)
    assert same is labels
    removed = 0
    for text, shortened in zip(texts, dropped, strict=True):
        before, after = text[text > 0].tolist(), shortened.tolist()
        kept = after[: after.index(0)] if 0 in after else after
        assert not any(after[len(kept) :])
        assert (kept[0], kept[-1]) == (2, 3)
        rest = iter(before)
        assert all(token in rest for token in kept)  # a subsequence
        removed += len(before) - len(kept)
    inner = (texts > 3).sum()
    assert removed / inner == pytest.approx(0.1, abs=0.02)


def test_changes_of_pictures_and_of_texts_do_not_mix():
    labels, rng = np.zeros(2, np.int64), np.random.default_rng(0)
    with pytest.raises(ConfigError, match="crops need pictures"):
        augmentation("shift")(np.ones((2, 5), np.int64), labels, rng)
    with pytest.raises(ConfigError, match="word-dropout needs tokens"):
        augmentation("word-dropout")(np.ones((2, 8, 8, 1), np.uint8), labels, rng)
