"""What a user says about the data set of a run: the `data:` section of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

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
        parts: Shards or tables of `train`, `val` and `test` below `path`, as patterns; by their names where not given.
        columns: Columns of tables by what they hold, `image`, `label` or `text`; found by name and type otherwise.
        unlabelled: Folder, shards or tables of more training pictures, whose labels are not read.
        unlabelled_ratio: Most unlabelled pictures for each labelled one of the training part; `None` uses all.
        max_corrupt: Inputs that may fail to be decoded, or below 1 their share; others stand in for them.
        missing_shards: Whether a shard that is missing from a numbered row ends the run.
        shuffle: Order of an epoch: `full` is any order of all, `shards` mixes a few shards at a time, `auto` is `full`
            where that costs little.
        window: Shards that are mixed at a time.
        decode: `fast` decodes large JPEGs at an eighth, quarter or half of their size, which gives other pixels.
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
    parts: Mapping[Literal["train", "val", "test"], str | tuple[str, ...]] = {}
    columns: Mapping[Literal["image", "label", "text"], str] = {}
    unlabelled: str | None = None
    unlabelled_ratio: float | None = Field(default=None, gt=0)
    max_corrupt: float = Field(default=0, ge=0)
    missing_shards: Literal["stop", "skip"] = "stop"
    shuffle: Literal["auto", "full", "shards"] = "auto"
    window: int = Field(default=4, ge=1)
    decode: Literal["exact", "fast"] = "exact"

    @model_validator(mode="after")
    def _ratio_is_of_something(self) -> DataConfig:
        if self.unlabelled_ratio is not None and self.unlabelled is None:
            raise ValueError("unlabelled_ratio is of the pictures that data.unlabelled names, which is not set")
        return self
