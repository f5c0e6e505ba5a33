"""Texts to token numbers by WordPiece, with a vocabulary of the user's or one learnt from the training texts.

The package `tokenizers` does the work. Its JSON form, which holds vocabulary, normalisation, truncation and padding,
travels with the model: `Tokenizer.from_str(json).encode(text).ids` is what the network was trained on.

Reference: arXiv 1810.04805 (BERT) for the form `[CLS] ... [SEP]`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgekd.core.digest import sha256_of_bytes
from edgekd.core.errors import ConfigError, DataError, StorageError, missing_package
from edgekd.data.inputs import Rows

PAD, UNKNOWN, CLS, SEP = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""Tokens that every vocabulary has; `[PAD]` is number 0."""

_CONTINUES = "##"
_MAX_VOCABULARY_BYTES = 1 << 26
_SHORTEST = 3


@dataclass(frozen=True)
class WordPiece:
    """A tokenizer.

    Texts are cleaned and divided as BERT does it; with a vocabulary without capital letters they are lowercased and
    lose their accents. Special tokens written out in a text (`"[SEP]"`) are ordinary characters.

    Attributes:
        vocabulary: Tokens by number; `[PAD]` first.
        length: Numbers of a text, `[CLS]` and `[SEP]` among them; longer texts are cut, shorter ones filled with 0.

    Raises:
        ConfigError: `length` leaves no room for a word.
        PreconditionError: `tokenizers` is not installed.
    """

    vocabulary: tuple[str, ...]
    length: int

    def __post_init__(self) -> None:
        if self.length < _SHORTEST:
            raise ConfigError(
                f"texts of {self.length} tokens hold no word beside {CLS} and {SEP}; at least {_SHORTEST}"
            )

    @property
    def is_cased(self) -> bool:
        """Whether capital letters matter: some token besides the special ones has one."""
        return any(token != token.lower() for token in self.vocabulary if not _is_special(token))

    @cached_property
    def json(self) -> str:
        """The tokenizer in the form that `tokenizers` reads; equal tokenizers give equal text."""
        return str(self._tokenizer.to_str(pretty=False))

    @property
    def digest(self) -> str:
        """SHA-256 of its JSON."""
        return sha256_of_bytes(self.json.encode())

    def encode(self, texts: Sequence[str]) -> tuple[Rows, int]:
        """Turn texts into numbers.

        Args:
            texts: The texts.

        Returns:
            int64 `[N, length]`, and how many of the texts were cut.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        numbers = np.array([encoding.ids for encoding in encodings], np.int64).reshape(-1, self.length)
        return numbers, sum(bool(encoding.overflowing) for encoding in encodings)

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizers = _import()
        number = {token: position for position, token in enumerate(self.vocabulary)}
        model = tokenizers.models.WordPiece(number, unk_token=UNKNOWN, continuing_subword_prefix=_CONTINUES)
        tokenizer = tokenizers.Tokenizer(model)
        tokenizer.normalizer = _normalizer(is_cased=self.is_cased)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}", special_tokens=[(token, number[token]) for token in (CLS, SEP)]
        )
        tokenizer.enable_truncation(self.length)
        tokenizer.enable_padding(length=self.length, pad_id=0, pad_token=PAD)
        return tokenizer


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Read a BERT vocabulary.

    Args:
        path: `vocab.txt`, one token a line, the special tokens among them.

    Returns:
        Tokens by number.

    Raises:
        ConfigError: No such file, or no such vocabulary: too large, not UTF-8, empty lines, a token twice, special
            tokens missing, `[PAD]` not first.
        StorageError: The file cannot be read.
    """
    try:
        if (size := path.stat().st_size) > _MAX_VOCABULARY_BYTES:
            raise ConfigError(f"vocabulary {path}: {size:,} bytes, at most {_MAX_VOCABULARY_BYTES:,} are read")
        tokens = tuple(path.read_bytes().decode("utf-8").rstrip("\n").split("\n"))
    except FileNotFoundError as error:
        raise ConfigError(f"vocabulary {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"vocabulary {path}: not UTF-8 text") from error
    except OSError as error:
        raise StorageError(f"vocabulary {path} cannot be read: {error.strerror or error}") from error
    tokens = tuple(token.rstrip("\r") for token in tokens)
    if problems := _vocabulary_problems(tokens):
        raise ConfigError(f"vocabulary {path}: {'; '.join(problems)}; give the vocab.txt of a BERT model")
    return tokens


def learnt_vocabulary(texts: Sequence[str], size: int) -> tuple[str, ...]:
    """Learn a lowercase vocabulary; the same texts give the same one.

    Args:
        texts: Training texts.
        size: Most tokens wanted, special tokens and single characters included; never fewer than these need.

    Returns:
        Tokens by number.

    Raises:
        DataError: The texts hold no word.
        PreconditionError: `tokenizers` is not installed.
    """
    tokenizers = _import()
    normalizer, divider = _normalizer(is_cased=False), tokenizers.pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in divider.pre_tokenize_str(normalizer.normalize_str(text))}
    if not words:
        raise DataError("the training texts hold no word to learn a vocabulary from")
    # The trainer numbers continued characters in the order of a hash table; given beforehand their order is ours.
    continued = [
        _CONTINUES + character for character in sorted({character for word in words for character in word[1:]})
    ]
    learner = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=UNKNOWN))
    learner.normalizer, learner.pre_tokenizer = normalizer, divider
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*SPECIAL_TOKENS, *continued], show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    found: dict[str, int] = learner.get_vocab()
    return tuple(sorted(found, key=found.__getitem__))


def _normalizer(*, is_cased: bool) -> Any:
    return _import().normalizers.BertNormalizer(lowercase=not is_cased)


def _is_special(token: str) -> bool:
    return token.startswith("[") and token.endswith("]")


def _vocabulary_problems(tokens: tuple[str, ...]) -> list[str]:
    problems = []
    if missing := [token for token in SPECIAL_TOKENS if token not in tokens]:
        problems.append(f"without {', '.join(missing)}")
    elif tokens[0] != PAD:
        problems.append(f"{PAD} is token {tokens.index(PAD)}, it must be token 0")
    if "" in tokens:
        problems.append(f"line {tokens.index('') + 1} is empty")
    if len(set(tokens)) < len(tokens):
        problems.append("some tokens appear twice")
    return problems


def _import() -> ModuleType:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise missing_package("tokenizers", "text", "text data") from error
