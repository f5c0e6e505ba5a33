import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError, DataError
from edgekd.data.augment import augmentation
from edgekd.data.batches import Batch, eval_batches, train_batches
from edgekd.data.dataset import Split
from edgekd.data.images import ArrayImages
from edgekd.data.inputs import network_inputs
from edgekd.data.task import Task

TASK = Task("classification", tuple("abcdefg"))


def _split(count: int = 10, side: int = 8, channels: int = 3) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)
    return Split(ArrayImages(pixels), np.arange(count, dtype=np.int64) % 7, TASK)


def _epoch(
    split: Split, *, epoch: int = 0, seed: int = 0, name: str = "crop-flip", drop_last: bool = True
) -> list[Batch]:
    return list(
        train_batches(split, batch_size=4, epoch=epoch, seed=seed, augment=augmentation(name), drop_last=drop_last)
    )


def test_network_inputs_moves_channels_and_divides_by_255() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    inputs = network_inputs(pixels)
    assert inputs.dtype == np.float32
    assert inputs.shape == (2, 3, 3, 4)
    for n, y, x, c in np.ndindex(pixels.shape):
        assert inputs[n, c, y, x] == np.float32(pixels[n, y, x, c]) / np.float32(255)
    assert network_inputs(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)).ravel().tolist() == [0.0, 1.0]


def test_eval_batches_gives_every_row_once_in_order() -> None:
    split = _split()
    batches = list(eval_batches(split, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(10))
    np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]).numpy(), split.labels)
    expected = network_inputs(split.inputs.gather(np.arange(10)))
    np.testing.assert_array_equal(torch.cat([batch.inputs for batch in batches]).numpy(), expected)


def test_eval_batches_are_smaller_for_large_inputs_by_default() -> None:
    assert [len(batch) for batch in eval_batches(_split(600, side=2))] == [256, 256, 88]
    assert [len(batch) for batch in eval_batches(_split(5, side=700))] == [2, 2, 1]
    assert [len(batch) for batch in eval_batches(_split(2, side=1300))] == [1, 1]


def test_batch_has_the_types_the_trainer_expects() -> None:
    batch = next(eval_batches(_split(), batch_size=3))
    assert (batch.inputs.dtype, batch.inputs.shape) == (torch.float32, (3, 3, 8, 8))
    assert (batch.labels.dtype, batch.ids.dtype, batch.is_labelled.dtype) == (torch.int64, torch.int64, torch.bool)
    assert bool(batch.is_labelled.all())
    moved = batch.to("meta")
    assert all(t.device.type == "meta" for t in (moved.inputs, moved.labels, moved.ids, moved.is_labelled))
    assert moved.inputs.shape == batch.inputs.shape


def test_train_batches_rows_match_their_ids_when_not_augmented() -> None:
    split = _split()
    batches = _epoch(split, name="none", drop_last=False)
    assert sorted(torch.cat([batch.ids for batch in batches]).tolist()) == list(range(10))
    for batch in batches:
        ids = batch.ids.numpy()
        np.testing.assert_array_equal(batch.inputs.numpy(), network_inputs(split.inputs.gather(ids)))
        np.testing.assert_array_equal(batch.labels.numpy(), split.labels[ids])


def test_train_batches_drops_the_incomplete_last_batch() -> None:
    batches = _epoch(_split())
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(torch.cat([batch.ids for batch in batches]).tolist())) == 8


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (4, [4]), (8, [4, 4])])
def test_train_batches_keeps_at_least_one_batch(count: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in _epoch(_split(count))] == sizes


def test_train_batches_depends_only_on_seed_and_epoch() -> None:
    split = _split(64)
    first = _epoch(split, epoch=3, seed=5)
    np.random.seed(1)
    torch.manual_seed(1)
    _epoch(split, epoch=2, seed=5)
    again = _epoch(split, epoch=3, seed=5)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.inputs, other.inputs)


def test_train_batches_orders_and_augments_each_epoch_and_seed_anew() -> None:
    split = _split(64)
    orders = {
        tuple(torch.cat([b.ids for b in _epoch(split, epoch=e, seed=s)]).tolist()) for e, s in ((0, 0), (1, 0), (0, 1))
    }
    assert len(orders) == 3
    same = Split(ArrayImages(np.repeat(split.inputs.gather(np.array([0])), 64, axis=0)), split.labels, TASK)
    pictures = {
        torch.cat([b.inputs for b in _epoch(same, epoch=e, seed=s)]).numpy().tobytes()
        for e, s in ((0, 0), (1, 0), (0, 1))
    }
    assert len(pictures) == 3


def test_train_batches_augments_each_batch_anew() -> None:
    one = _split(1).inputs.gather(np.array([0]))
    batches = _epoch(Split(ArrayImages(np.repeat(one, 64, axis=0)), np.zeros(64, np.int64), TASK))
    assert len({batch.inputs.numpy().tobytes() for batch in batches}) == len(batches)


@pytest.mark.parametrize("is_training", [True, False])
def test_batches_refuse_wrong_sizes_at_once(is_training: bool) -> None:
    def ask(split: Split, batch_size: int) -> object:
        if is_training:
            return train_batches(split, batch_size=batch_size, epoch=0, seed=0, augment=augmentation("none"))
        return eval_batches(split, batch_size=batch_size)

    with pytest.raises(ConfigError, match="batch_size is 0"):
        ask(_split(), 0)
    with pytest.raises(DataError, match="no input"):
        ask(Split(ArrayImages(np.zeros((0, 8, 8, 1), np.uint8)), np.zeros(0, np.int64), TASK), 4)
