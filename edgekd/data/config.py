"""What a user says about the data set of a run: the `data:` section of a configuration."""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import StrictModel


class DataConfig(StrictModel):
    """Which inputs to use and how to divide them.

    Attributes:
        name: Registered data set (`dataset_names()` lists them).
        path: Folder or archive that holds it; `None` for sets that need none.
        val_fraction: Share of the training part that is held out for every choice made during a run.
        seed: Root seed of the held-out split and of `limit`; the test part never depends on it.
        resolution: Height and width of the pictures in pixels; `None` keeps the stored size (square pictures only).
        length: Tokens of a text, special ones among them; longer texts are cut. `None` leaves it to the data set.
        vocabulary: A BERT `vocab.txt`; `None` learns a vocabulary from the training texts.
        vocabulary_size: Most tokens of a learnt vocabulary; `None` leaves it to the data set.
        limit: Use at most this many inputs of the training part (before `val` is held out of it), and at most this
            many of the test part, keeping the shares of the classes; `None` uses all.
    """

    name: str = "digits"
    path: str | None = None
    val_fraction: float = Field(default=0.15, gt=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)
    resolution: int | None = Field(default=None, ge=1, le=4096)
    length: int | None = Field(default=None, ge=3, le=8192)
    vocabulary: str | None = None
    vocabulary_size: int | None = Field(default=None, ge=8)
    limit: int | None = Field(default=None, ge=1)
