"""The data set `text`: a user's labelled texts as token numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.core.errors import DataError
from edgekd.core.seeds import derive_seed
from edgekd.data.config import DataConfig
from edgekd.data.inputs import Rows
from edgekd.data.parquet.texts import holds_tables, read_text_tables
from edgekd.data.sources import DATASETS, DatasetKind, Part, Source, required_path
from edgekd.data.splits import held_out_rows, limited_rows
from edgekd.data.task import Task
from edgekd.data.text.corpus import NEEDS, Corpus, Table, label_numbers, read_corpus
from edgekd.data.text.tokens import TokenRows
from edgekd.data.text.wordpiece import WordPiece, learnt_vocabulary, read_vocabulary

LENGTH = 32
"""Tokens of a text where `data.length` says nothing."""

VOCABULARY_SIZE = 4096
"""Most tokens of a learnt vocabulary where `data.vocabulary_size` says nothing."""

TEST_FRACTION = 0.2
"""Share of a corpus of one table that is its test part, the same for every seed."""

_MOST_CLASSES = 1000


@dataclass(frozen=True)
class _Texts:
    table: Table
    labels: Rows

    def take(self, rows: Rows) -> _Texts:
        return _Texts(self.table.take(rows), self.labels[rows])


def load_text(config: DataConfig) -> Source:
    """Read a corpus and turn its texts into tokens.

    The vocabulary is the user's, or learnt from the texts that are trained on: those left by `limit` and outside the
    held-out split.

    Args:
        config: Names the corpus, and perhaps `length`, `vocabulary` or `vocabulary_size`.

    Returns:
        Its parts, the held-out one made here where the corpus brings none.

    Raises:
        ConfigError: An unusable vocabulary or length.
        DataError: An unusable corpus.
        PreconditionError: No corpus is there, or `tokenizers` is not installed.
    """
    is_tabled = config.path is not None and holds_tables(config.path)
    path = Path(str(config.path)) if is_tabled else required_path(config, NEEDS)
    corpus = read_text_tables(config) if is_tabled else read_corpus(path)
    classes = _checked_classes(corpus, path)
    parts, notes = _divided(corpus, classes, config)
    tokenizer = WordPiece(_vocabulary(parts["train"].table, config), config.length or LENGTH)
    tokens = {}
    for name, part in parts.items():
        numbers, cut = tokenizer.encode(part.table.texts)
        tokens[name] = Part(TokenRows(numbers, tokenizer.digest), part.labels)
        if cut:
            notes += (f"{cut} of {len(part.labels)} {name} texts are cut to {tokenizer.length} tokens (data.length)",)
    origin = f"of {config.vocabulary}" if config.vocabulary else "learnt from the training texts"
    letters = "capital letters kept" if tokenizer.is_cased else "lowercase"
    notes += (f"{len(tokenizer.vocabulary)} tokens {origin}, {letters}", *_repeated(parts))
    task = Task("classification", classes)
    return Source(task, tokens["train"], tokens["test"], tokens["val"], notes=notes, tokenizer=tokenizer)


def _checked_classes(corpus: Corpus, path: Path) -> tuple[str, ...]:
    classes = corpus.classes
    if not 2 <= len(classes) <= _MOST_CLASSES:
        raise DataError(
            f"{path}: {len(classes)} different labels in {len(corpus.train)} training texts, 2..{_MOST_CLASSES} are "
            f"taken; is the label column right? First labels: {', '.join(classes[:3])}"
        )
    return classes


def _divided(corpus: Corpus, classes: tuple[str, ...], config: DataConfig) -> tuple[dict[str, _Texts], tuple[str, ...]]:
    """Divide as `edgekd.data.loading` does, which finds nothing left to do then; the vocabulary comes in between."""
    train = _texts(corpus.train, classes, "training part")
    notes: tuple[str, ...] = ()
    if corpus.test is None:
        seed = derive_seed(0, "text", "test")
        kept, held_out = held_out_rows(train.labels, fraction=TEST_FRACTION, seed=seed)
        train, test = train.take(kept), train.take(held_out)
        notes = (f"test part: a fixed stratified {TEST_FRACTION:.0%} of the corpus",)
    else:
        test = _texts(corpus.test, classes, "test part")
    train = train.take(limited_rows(train.labels, limit=config.limit, seed=derive_seed(config.seed, "data", "limit")))
    if corpus.val is not None:
        return {"train": train, "val": _texts(corpus.val, classes, "held-out part"), "test": test}, notes
    seed = derive_seed(config.seed, "data", "val")
    kept, held_out = held_out_rows(train.labels, fraction=config.val_fraction, seed=seed)
    return {"train": train.take(kept), "val": train.take(held_out), "test": test}, notes


def _texts(table: Table, classes: tuple[str, ...], origin: str) -> _Texts:
    return _Texts(table, label_numbers(table, classes, origin))


def _vocabulary(train: Table, config: DataConfig) -> tuple[str, ...]:
    if config.vocabulary is not None:
        return read_vocabulary(Path(config.vocabulary).expanduser())
    return learnt_vocabulary(train.texts, config.vocabulary_size or VOCABULARY_SIZE)


def _repeated(parts: dict[str, _Texts]) -> tuple[str, ...]:
    known = set(parts["train"].table.texts)
    counts = {name: int(np.sum([text in known for text in parts[name].table.texts])) for name in ("val", "test")}
    return tuple(
        f"{count} of {len(parts[name].labels)} {name} texts are in the training part too"
        for name, count in counts.items()
        if count
    )


DATASETS.add("text", DatasetKind(load_text, augmentation="none", needs=NEEDS))
