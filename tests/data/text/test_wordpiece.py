"""Tokens against a greedy longest-match search written out here, and vocabularies against separate processes."""

import json
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from edgekd.core.errors import ConfigError, DataError, PreconditionError
from edgekd.data.text import TokenRows, WordPiece, learnt_vocabulary, read_vocabulary
from edgekd.data.text.wordpiece import SPECIAL_TOKENS

tokenizers = pytest.importorskip("tokenizers", reason="extra 'text' is not installed")

TEXTS = [
    "The quick brown fox jumps over the lazy dog .",
    "Who could resist such a quick, quick fox ?",
    "Café creme and naïve jumping foxes !",
    "unlikely unhappily happy happier happiest",
]
VOCABULARY = (*SPECIAL_TOKENS, "un", "##happi", "##ly", "happi", "##er", "fox", "##es", ",", "cafe", "[", "]", "sep")


def _words(text):
    text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))
    return re.findall(r"\w+|[^\w\s]", text)


def _pieces(word, vocabulary):
    pieces, start = [], 0
    while start < len(word):
        ends = [e for e in range(len(word), start, -1) if ("##" if start else "") + word[start:e] in vocabulary]
        if not ends:
            return ["[UNK]"]
        pieces.append(("##" if start else "") + word[start : ends[0]])
        start = ends[0]
    return pieces


def _expected(text, vocabulary, length):
    pieces = [piece for word in _words(text) for piece in _pieces(word, vocabulary)]
    numbers = [vocabulary.index(piece) for piece in ["[CLS]", *pieces[: length - 2], "[SEP]"]]
    return numbers + [0] * (length - len(numbers)), len(pieces) > length - 2


@pytest.mark.parametrize("length", [3, 5, 16])
def test_tokens_are_greedy_longest_matches_cut_and_filled(length):
    texts = ["unhappily, happier Foxes", "Café fox", "zebra fox", "[SEP] fox", "fox\tfox\u00a0fox", ""]
    expected = [_expected(text, VOCABULARY, length) for text in texts]
    numbers, cut = WordPiece(VOCABULARY, length).encode(texts)
    assert numbers.dtype == np.int64
    np.testing.assert_array_equal(numbers, [row for row, _ in expected])
    assert cut == sum(is_cut for _, is_cut in expected)


def test_special_tokens_in_a_text_are_ordinary_characters():
    numbers, _ = WordPiece(VOCABULARY, 8).encode(["[SEP] [PAD]"])
    assert numbers[0, 1:4].tolist() == [VOCABULARY.index(token) for token in ("[", "sep", "]")]
    assert 0 not in numbers[0, :6]


def test_a_vocabulary_with_capitals_keeps_them():
    cased = WordPiece((*SPECIAL_TOKENS, "Fox", "fox"), 4)
    assert cased.is_cased and not WordPiece(VOCABULARY, 4).is_cased
    np.testing.assert_array_equal(cased.encode(["Fox fox"])[0], [[2, 4, 5, 3]])


def test_the_json_alone_gives_the_same_tokens():
    tokenizer = WordPiece(learnt_vocabulary(TEXTS, 60), 12)
    again = tokenizers.Tokenizer.from_str(tokenizer.json)
    for text, row in zip(TEXTS, tokenizer.encode(TEXTS)[0], strict=True):
        assert again.encode(text).ids == row.tolist()
    document = json.loads(tokenizer.json)
    assert document["padding"]["strategy"] == {"Fixed": 12} and document["truncation"]["max_length"] == 12


def test_digest_follows_vocabulary_and_length():
    one = WordPiece(VOCABULARY, 8)
    assert one.digest == WordPiece(VOCABULARY, 8).digest
    assert one.digest != WordPiece(VOCABULARY, 9).digest
    assert one.digest != WordPiece((*VOCABULARY, "dog"), 8).digest


def test_a_learnt_vocabulary_covers_its_texts_within_its_size():
    vocabulary = learnt_vocabulary(TEXTS, 70)
    assert vocabulary[:4] == SPECIAL_TOKENS and len(set(vocabulary)) == len(vocabulary) == 70
    assert all("[UNK]" not in _pieces(word, vocabulary) for text in TEXTS for word in _words(text))
    assert "quick" in learnt_vocabulary(TEXTS, 500)
    with pytest.raises(DataError, match="no word"):
        learnt_vocabulary([" ", "\n"], 50)


def test_a_learnt_vocabulary_is_the_same_in_every_process():
    code = f"from edgekd.data.text import learnt_vocabulary; print(learnt_vocabulary({TEXTS!r}, 75))"
    command = [sys.executable, "-c", code]
    seen = {subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)}
    assert seen == {f"{learnt_vocabulary(TEXTS, 75)}\n"}


def test_vocabulary_file_is_read_with_any_line_ends(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join(VOCABULARY).encode() + b"\r\n")
    assert read_vocabulary(path) == VOCABULARY


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["[UNK]", "[PAD]", "[CLS]", "[SEP]"], r"\[PAD\] is token 1"),
        (["[PAD]", "[UNK]", "a"], r"without \[CLS\], \[SEP\]"),
        ([*SPECIAL_TOKENS, "a", "a"], "appear twice"),
        ([*SPECIAL_TOKENS, "", "a"], "line 5 is empty"),
    ],
)
def test_unusable_vocabularies_are_refused(tmp_path, tokens, message):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(tokens))
    with pytest.raises(ConfigError, match=message):
        read_vocabulary(path)


def test_absent_and_binary_vocabularies_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_vocabulary(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_vocabulary(tmp_path / "vocab.txt")


def test_texts_too_short_for_a_word_are_refused():
    with pytest.raises(ConfigError, match="at least 3"):
        WordPiece(VOCABULARY, 2)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PreconditionError, match=r"edgekd\[text\]"):
        learnt_vocabulary(TEXTS, 50)


def test_token_rows_fingerprint_covers_rows_order_and_tokenizer():
    rows = np.arange(12, dtype=np.int64).reshape(4, 3)
    store = TokenRows(rows, "one")
    assert store.shape == (3,) and len(store) == 4
    np.testing.assert_array_equal(store.gather(np.array([2, 0])), rows[[2, 0]])
    prints = [store.fingerprint(np.array(take)) for take in ([0, 1], [1, 0], [0])]
    prints.append(TokenRows(rows, "other").fingerprint(np.array([0, 1])))
    assert len(set(prints)) == 4 and prints[0] == TokenRows(rows.copy(), "one").fingerprint(np.array([0, 1]))
    with pytest.raises(DataError, match=r"int32 \[4, 3\]"):
        TokenRows(rows.astype(np.int32), "one")
