"""Inputs that are no pictures: a data set of tokens goes the same way, of every kind of task."""

import hashlib

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError, DataError
from edgekd.data import (
    DATASETS,
    ArrayImages,
    DataConfig,
    DatasetKind,
    Part,
    Source,
    Task,
    augmentation,
    calibration_inputs,
    describe,
    eval_batches,
    load_dataset,
    network_inputs,
    train_batches,
)

CLASSES = Task("classification", ("a", "b"))
MAPS = Task("segmentation", ("a", "b"))
VALUES = Task("regression", ("angle", "scale"))


class Tokens:
    """The least that a store of tokens is."""

    def __init__(self, tokens):
        self._tokens = tokens

    @property
    def shape(self):
        return self._tokens.shape[1:]

    def __len__(self):
        return len(self._tokens)

    def gather(self, indices):
        return self._tokens[indices]

    def fingerprint(self, indices):
        return hashlib.sha256(self._tokens[indices].tobytes()).hexdigest()


@pytest.fixture
def stored(monkeypatch):
    """Register a data set made of inputs and labels; both parts are the same rows."""

    def register(task, inputs, labels):
        part = Part(inputs, labels)
        monkeypatch.setattr(DATASETS, "_items", {**DATASETS._items})
        monkeypatch.delitem(DATASETS._items, "stored", raising=False)
        DATASETS.add("stored", DatasetKind(lambda config: Source(task, part, part), augmentation="none"))
        return lambda **options: load_dataset(DataConfig(name="stored", **options))

    return register


def _pictures(count=20, side=6):
    return ArrayImages(np.random.default_rng(0).integers(0, 256, (count, side, side, 1), np.uint8))


def test_tokens_reach_networks_as_they_are(stored):
    tokens = np.random.default_rng(0).integers(0, 99, (40, 7))
    dataset = stored(CLASSES, Tokens(tokens), np.arange(40) % 2)()
    assert (dataset.input_shape, dataset.mean, dataset.std) == ((7,), (), ())
    batch = next(eval_batches(dataset.test, batch_size=40))
    assert batch.inputs.dtype == torch.int64
    np.testing.assert_array_equal(batch.inputs.numpy(), tokens)
    settings = {"batch_size": 8, "epoch": 0, "seed": 0, "augment": augmentation("none")}
    for shuffled in train_batches(dataset.train, **settings):
        np.testing.assert_array_equal(shuffled.inputs.numpy(), dataset.train.inputs.gather(shuffled.ids.numpy()))
    assert calibration_inputs(dataset, size=10, seed=0).shape == (10, 7)
    assert describe(dataset)["shape"] == [7]


def test_tokens_have_no_resolution(stored):
    load = stored(CLASSES, Tokens(np.zeros((20, 7), np.int64)), np.arange(20) % 2)
    with pytest.raises(ConfigError, match="holds no pictures"):
        load(resolution=8)


@pytest.mark.parametrize("wrong", [np.zeros((2, 3), np.int32), np.zeros((2, 3, 3, 1)), np.zeros((2, 3, 3), np.uint8)])
def test_other_inputs_are_refused(wrong):
    with pytest.raises(DataError, match=r"uint8 \[n, H, W, C\] or int64 \[n, L\]"):
        network_inputs(wrong)


def test_maps_are_loaded_with_their_pictures_and_split_at_random(stored):
    pictures = _pictures()
    maps = (pictures.gather(np.arange(20))[..., 0] > 127).astype(np.int64)
    dataset = stored(MAPS, pictures, maps)(val_fraction=0.25)
    assert (len(dataset.train), len(dataset.val)) == (15, 5)
    for split in (dataset.train, dataset.val, dataset.test):
        pixels = split.inputs.gather(np.arange(len(split)))
        np.testing.assert_array_equal(split.labels, pixels[..., 0] > 127)
    counts = describe(dataset)["class_counts"]
    assert sum(counts["test"]) == maps.size
    assert counts["test"][1] == maps.sum()


def test_maps_are_not_resized(stored):
    with pytest.raises(ConfigError, match="label maps of 6 x 6 pixels, which are not resized"):
        stored(MAPS, _pictures(), np.tile([0, 1, 0, 1, 0, 1], (20, 6, 1)))(resolution=8)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (MAPS, np.zeros((20, 6, 6), np.int64), "1 of 2 classes have no training example: b"),
        (VALUES, np.tile(np.float32([1, 2]), (20, 1)), "2 of 2 targets have one value in every training row: angle"),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused(stored, task, labels, message):
    with pytest.raises(DataError, match=message):
        stored(task, _pictures(), labels)()


def test_digest_covers_the_task(stored):
    values = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    one = stored(VALUES, _pictures(), values)().digest
    other = stored(Task("regression", ("angle", "width")), _pictures(), values)().digest
    assert one != other
    assert "class_counts" in describe(stored(VALUES, _pictures(), values)())
