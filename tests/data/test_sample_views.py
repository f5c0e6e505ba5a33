"""A view of a sample is the same in any order, batch, process and place; the draws are splitmix64 by row."""

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.data import (
    ArrayImages,
    Portion,
    ResidentSplit,
    SampleViews,
    Split,
    Task,
    augmentation,
    batches_ahead,
    train_batches,
    view_batch,
)
from edgekd.data.sample_views import RowDraws

MASK = (1 << 64) - 1


def _splitmix(state):
    """The published generator, in integers of Python."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def _seeded(seed, row):
    z = (seed + row * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return _splitmix(z ^ (z >> 31))


@pytest.fixture(scope="module")
def split():
    pixels = np.random.default_rng(0).integers(1, 256, (40, 8, 8, 3)).astype(np.uint8)
    return Split(ArrayImages(pixels), np.arange(40, dtype=np.int64) % 2, Task("classification", ("a", "b")))


def test_a_row_draws_what_splitmix64_gives_seeded_by_seed_and_row():
    rows = np.array([5, 0, 49_999], dtype=np.int64)
    draws = RowDraws(1234, rows)
    found = draws.random((3, 2)), draws.integers(-4, 5, (3, 1)), draws.choice((-1.0, 1.0), size=(3, 2))
    more = draws.integers(7, size=3)
    for index, row in enumerate(rows.tolist()):
        stream = _seeded(1234, row)
        assert found[0][index].tolist() == [(next(stream) >> 11) / 2**53 for _ in range(2)]
        assert found[1][index].tolist() == [-4 + ((next(stream) >> 32) * 9 >> 32)]
        assert found[2][index].tolist() == [(-1.0, 1.0)[(next(stream) >> 32) * 2 >> 32] for _ in range(2)]
        assert more[index] == (next(stream) >> 32) * 7 >> 32


def test_draws_are_even_and_rows_and_views_do_not_go_together():
    rows = np.arange(20_000, dtype=np.int64)
    one, other = (SampleViews(3).draws(epoch, rows).random((len(rows), 2)) for epoch in (0, 1))
    columns = np.stack([one[:, 0], one[:, 1], other[:, 0], np.roll(one[:, 0], 1)])
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.03
    assert np.abs(np.histogram(one, 10, (0, 1))[0] / one.size - 0.1).max() < 0.01


def test_views_come_again_after_so_many_epochs():
    rows = np.arange(9, dtype=np.int64)

    def drawn(views, epoch):
        return views.draws(epoch, rows).random((9, 1)).tolist()

    three, endless = SampleViews(1, 3), SampleViews(1)
    assert drawn(three, 1) == drawn(three, 4) == drawn(endless, 1) != drawn(endless, 4)
    assert drawn(three, 1) != drawn(three, 2) and drawn(three, 1) != drawn(SampleViews(2, 3), 1)
    expected = RowDraws(derive_seed(1, "view", 2), rows).random((9, 1)).tolist()
    assert drawn(three, 5) == expected


@pytest.mark.parametrize("name", ["none", "shift", "crop-flip", "randaugment", "shift+randaugment"])
def test_a_sample_has_one_view_in_any_batch(split, name):
    views, augment = SampleViews(7), augmentation(name)
    alone = {row: view_batch(split, np.array([row]), augment, views, epoch=2).inputs[0] for row in range(40)}
    for size, seed in ((8, 0), (5, 1)):
        for batch in train_batches(split, batch_size=size, epoch=2, seed=seed, augment=augment, views=views):
            for row, picture, label in zip(batch.ids.tolist(), batch.inputs, batch.labels.tolist(), strict=True):
                assert torch.equal(picture, alone[row]) and label == row % 2
    if name != "none":
        plain = view_batch(split, np.arange(40), augmentation("none"), views, epoch=2).inputs
        assert not torch.equal(plain, torch.stack([alone[row] for row in range(40)]))


def test_workers_resident_pictures_and_parts_give_the_same_views(split):
    augment = augmentation("crop-flip")
    how = {"batch_size": 8, "epoch": 3, "seed": 5, "first": 1, "views": SampleViews(2, 2)}
    whole = list(train_batches(split, augment=augment, **how))
    others = {
        "ahead": list(batches_ahead(split, augment=augment, workers=1, **how)),
        "resident": list(ResidentSplit(split, augment, torch.device("cpu")).batches(**how)),
    }
    for name, batches in others.items():
        assert len(batches) == len(whole) == 4, name
        for mine, theirs in zip(batches, whole, strict=True):
            assert torch.equal(mine.inputs, theirs.inputs) and torch.equal(mine.ids, theirs.ids), name
    parts = [list(train_batches(split, augment=augment, portion=Portion(index, 2), **how)) for index in (0, 1)]
    for pair, batch in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.inputs for part in pair]), batch.inputs)


def test_changes_that_are_not_by_sample_are_refused(split):
    rows = np.arange(4, dtype=np.int64)

    class Whole:
        def __call__(self, inputs, labels, rng):
            return inputs, labels

    class Once(Whole):
        def part(self, inputs, labels, rng, *, rows, of):
            rng.random(1)
            return inputs, labels

    class Normal(Whole):
        def part(self, inputs, labels, rng, *, rows, of):
            rng.normal(size=(of, 1))
            return inputs, labels

    messages = {Whole: "Whole changes whole batches only", Once: r"shape \(1,\) for 4 rows", Normal: "by 'normal'"}
    for kind, message in messages.items():
        with pytest.raises(ConfigError, match=message):
            view_batch(split, rows, kind(), SampleViews(0), epoch=0)
