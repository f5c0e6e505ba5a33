"""What a training takes, said before it is begun; the batch that fits."""

import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import augmentation
from edgekd.distill import load_recipe
from edgekd.distill.estimate import estimate, fitting_batch_size
from edgekd.distill.roles import open_session

NONE = augmentation("none")


@pytest.fixture
def opened(student, teacher):
    def go(name="kd", student=student):
        with torch.random.fork_rng(devices=[]):
            return open_session(load_recipe(name), student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)

    return go


def test_every_stage_is_estimated_and_nothing_given_changes(opened, dataset, settings, teacher):
    before = {name: value.clone() for name, value in teacher[1].state_dict().items()}
    recipe = load_recipe("online-checkpoints")
    found = estimate(recipe, opened(recipe.name), dataset=dataset, settings=settings, augment=NONE)
    assert [one.name for one in found] == [stage.name for stage in recipe.stages]
    for one, stage in zip(found, recipe.stages, strict=True):
        assert one.epochs == max(1, round(2 * stage.epochs)) and one.steps == 4 * one.epochs
        assert one.total_s > one.steps * one.step_s > 0
    after = teacher[1].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_memory_is_weights_and_what_grows_with_the_batch(opened, dataset, settings, student):
    def memory(size, **changed):
        how = settings.model_copy(update={"batch_size": size, **changed})
        (one,) = estimate(load_recipe("kd"), opened(), dataset=dataset, settings=how, augment=NONE)
        return one.memory_bytes

    sizes = {size: memory(size) for size in (16, 32, 64)}
    per_row = (sizes[64] - sizes[32]) / 32
    assert per_row == pytest.approx((sizes[32] - sizes[16]) / 16, rel=0.02)
    # A map of two channels of 8x8 float32 is 512 bytes, and at least the eight layers keep one.
    assert per_row > 8 * 512
    weights = sum(value.numel() * 4 for value in opened().net("student").parameters())
    assert memory(32, optimizer="adamw", lr=1e-3) - sizes[32] == pytest.approx(weights, rel=0.1)


def test_the_largest_batch_within_the_limit_is_found(opened, dataset, settings, teacher):
    def wide():
        return opened(student=teacher[0])

    def found(mb, **changed):
        how = settings.model_copy(update={"memory_mb": mb, **changed})
        return fitting_batch_size(load_recipe("kd"), wide, dataset=dataset, settings=how, augment=NONE)

    how = settings.model_copy(update={"batch_size": 64})
    (one,) = estimate(load_recipe("kd"), wide(), dataset=dataset, settings=how, augment=NONE)
    limit = -(-one.memory_bytes // (1 << 20))
    assert found(1000) == 128
    assert found(limit) == found(limit, batch_size=128) == found(limit, batch_size=4) == 64
    assert found(limit, accumulate=2) == 128


def test_what_does_not_fit_at_all_or_has_no_limit_is_refused(opened, dataset, settings, monkeypatch):
    recipe = load_recipe("kd")
    with pytest.raises(ConfigError, match="on a CPU needs to know what it may fill: set train.memory_mb"):
        fitting_batch_size(recipe, opened, dataset=dataset, settings=settings, augment=NONE)
    monkeypatch.setattr("edgekd.distill.estimate._memory_of", lambda *_: None)
    limited = settings.model_copy(update={"memory_mb": 5})
    with pytest.raises(ConfigError, match="a batch of 2 rows does not fit in train.memory_mb = 5"):
        fitting_batch_size(recipe, opened, dataset=dataset, settings=limited, augment=NONE)


def test_memory_that_the_device_does_not_have_is_a_batch_too_large(opened, dataset, settings, monkeypatch):
    from edgekd.distill import estimate as module

    step = module._Stepping.__call__

    def limited(self, batch, *rest):
        if len(batch) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, batch, *rest)

    monkeypatch.setattr(module._Stepping, "__call__", limited)
    how = settings.model_copy(update={"memory_mb": 1000})
    assert fitting_batch_size(load_recipe("kd"), opened, dataset=dataset, settings=how, augment=NONE) == 16
