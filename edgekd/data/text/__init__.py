"""Text: labelled corpora, WordPiece tokens, and the data set `text` made of both."""

from edgekd.data.text.corpus import Corpus, Table, read_corpus
from edgekd.data.text.tokens import TokenRows
from edgekd.data.text.wordpiece import WordPiece, learnt_vocabulary, read_vocabulary

__all__ = ["Corpus", "Table", "TokenRows", "WordPiece", "learnt_vocabulary", "read_corpus", "read_vocabulary"]
