"""Training from a cache: the run that fills it, the runs that read it, and live training are one, to rounding."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError, StorageError
from edgekd.core.events import Event
from edgekd.data import SampleViews, augmentation, view_batch
from edgekd.distill import Recipe, Resumption, TrainSettings, load_recipe
from edgekd.distill.epochs import EpochRunner
from edgekd.distill.resume import Bookmark
from edgekd.distill.run import check_recipe
from edgekd.distill.teacher_cache import entries
from edgekd.distill.teacher_cache import rows as rows_module
from edgekd.distill.teacher_cache.recall import Recall


class Killed(Exception):
    pass


@pytest.fixture
def cached(run, tmp_path):
    """Run a recipe with a cache; returns the outcome and what it said of it."""

    def go(method="kd", seed=2, resume=None, listener=None, **changed):
        said = []

        def listen(event):
            if isinstance(event, Event) and "teacher cache: " in event.message:
                said.append(event.message.removeprefix("teacher cache: "))

        base = {"epochs": 3, "batch_size": 48, "augment": "shift", "device": "cpu", "augment_views": 2}
        settings = TrainSettings(**{**base, "teacher_cache": str(tmp_path / "cache"), **changed})
        return run(method, seed=seed, settings=settings, listener=listener or listen, resume=resume), said

    return go


def _assert_same(one, other):
    mine, theirs = one.student.state_dict(), other.student.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)
    assert [replace(epoch, seconds=0) for epoch in one.history] == [
        replace(epoch, seconds=0) for epoch in other.history
    ]


def _losses(outcome):
    return np.array([epoch.loss for epoch in outcome.history])


# Features, several teachers, attachments of a teacher that was trained before, turned pictures, memory banks.
METHODS = ["kd", "fitnet", "ensemble", "dgkd", "sskd", "crd", "ft"]


@pytest.mark.parametrize("method", METHODS)
def test_filling_and_reading_are_the_same_run_bit_for_bit(cached, method):
    filled, said = cached(method)
    again, told = cached(method)
    _assert_same(filled, again)
    assert any(not line.endswith(" 0 computed") for line in said if "spared" in line)
    ends = [line for line in told if "spared" in line]
    assert ends and all("5 of 6 passes" in line and line.endswith(" 0 computed") for line in ends)


def test_without_rounding_the_first_pass_is_live_training_bit_for_bit(cached):
    filled, _ = cached("fitnet", epochs=2, cache_dtype="fp32")
    live, said = cached("fitnet", epochs=2, teacher_cache=None)
    _assert_same(filled, live)
    assert not said


@pytest.mark.parametrize("augment", ["shift", "shift+randaugment"])
def test_a_cached_step_has_the_loss_of_a_live_one(cached, monkeypatch, augment):
    """Every loss of a run that reads, against the live loss of the very same step, weights and batch."""
    how = {"augment": augment, "epochs": 4, "batch_size": 32}
    cached("kd", **how)
    step_of, pairs = EpochRunner._step, []

    def stepping(self, batch, step):
        learners = copy.deepcopy(self.stage.learners)
        live = [net for learner in learners for net in learner.target_nets().values()]
        for net in live:
            net.recall = None
        with torch.no_grad():
            expected = learners(batch, step).total.item()
        losses = step_of(self, batch, step)
        pairs.append((losses.total.item(), expected))
        return losses

    monkeypatch.setattr(EpochRunner, "_step", stepping)
    monkeypatch.setattr(Recall, "__deepcopy__", lambda self, memo: self, raising=False)
    _, said = cached("kd", **how)
    assert "15 of 16 passes of teacher were spared" in said[-1] and len(pairs) == 16
    given, expected = np.array(pairs).T
    np.testing.assert_allclose(given, expected, rtol=1e-3)
    assert np.ptp(expected) > 0.01


def test_every_row_kept_is_what_the_teacher_says_of_that_view(cached, dataset, teacher, tmp_path, monkeypatch):
    """Against the teacher run on each sample alone, changed as its view says: order and epoch do not matter."""
    cached(epochs=4, augment_views=2)
    traces = {}
    recall = Recall.__call__

    def listening(self, batch, step):
        trace = recall(self, batch, step)
        traces.setdefault(step.epoch, {}).update(zip(batch.ids.tolist(), trace.logits, strict=True))
        return trace

    monkeypatch.setattr(Recall, "__call__", listening)
    cached(epochs=4, augment_views=2)
    views, augment = SampleViews(2, 2), augmentation("shift")
    for epoch, rows in traces.items():
        assert len(rows) == 96
        for row, logits in rows.items():
            alone = view_batch(dataset.train, np.array([row]), augment, views, epoch)
            torch.testing.assert_close(logits, teacher[1](alone.inputs)[0], rtol=2e-3, atol=2e-2)
    both = traces[0].keys() & traces[1].keys()
    assert all(torch.equal(traces[0][row], traces[2][row]) for row in traces[0].keys() & traces[2].keys())
    assert sum(not torch.equal(traces[0][row], traces[1][row]) for row in both) > len(both) / 2


def test_recipes_students_and_seeds_share_what_is_kept(cached, tmp_path):
    cached("kd", augment_seed=0)
    for method, seed in (("dkd", 2), ("kd", 5)):
        _, said = cached(method, seed=seed, augment_seed=0)
        assert "5 of 6 passes" in said[-1] or seed == 5
    assert len(entries(tmp_path / "cache")) == 1
    # Without a common seed of the views another seed sees other views, and keeps them elsewhere.
    cached("kd", seed=5)
    assert len(entries(tmp_path / "cache")) == 2
    _, said = cached("fitnet", augment_seed=0)
    assert " 0 of " not in said[-1] and "computed" in said[-1]


def test_one_view_is_enough_where_nothing_is_changed(cached):
    _, said = cached(augment="none", augment_views=None, batch_size=32, epochs=3)
    assert said[-1] == "8 of 12 passes of teacher were spared, 256 of 384 outputs were read, 128 computed"


@pytest.mark.parametrize(
    "how", [{"workers": 2}, {"resident": True}, {"cache_limit_gb": 1.0}, {"checkpoint_every_s": 1.0}]
)
def test_how_batches_are_made_changes_nothing(cached, tmp_path, how):
    plain, _ = cached(teacher_cache=str(tmp_path / "other"))
    filled, _ = cached(**how)
    _assert_same(plain, filled)


def test_parts_of_batches_and_averages_go_with_a_cache(cached):
    how = {"accumulate": 2, "ema": 0.9, "max_grad_norm": 1.0, "precision": "bf16", "channels_last": True}
    filled, _ = cached("fitnet", **how)
    again, said = cached("fitnet", **how)
    _assert_same(filled, again)
    assert "11 of 12 passes" in said[-1]
    live, _ = cached("fitnet", teacher_cache=None, **how)
    np.testing.assert_allclose(_losses(filled), _losses(live), rtol=0.03)


def test_a_view_is_read_once_while_there_is_memory_and_again_where_there_is_not(cached, monkeypatch):
    filled, _ = cached()
    read, seen = rows_module.read_block, []

    def reading(path, label, **of):
        seen.append(path)
        return read(path, label, **of)

    monkeypatch.setattr(rows_module, "read_block", reading)
    _assert_same(filled, cached()[0])
    once = len(seen)
    assert once == len(set(seen)) > 0
    few = rows_module.psutil.virtual_memory()._replace(available=0)
    monkeypatch.setattr(rows_module.psutil, "virtual_memory", lambda: few)
    _assert_same(filled, cached()[0])
    assert len(seen) - once > once  # the first of the two views comes again in the third epoch


@pytest.mark.parametrize("shape", [{"compile": "default"}])
def test_a_network_of_one_shape_runs_on_whole_batches(cached, monkeypatch, shape):
    seen, run_live = set(), Recall._run
    monkeypatch.setattr("edgekd.distill.run.compiled", _uncompiled)
    monkeypatch.setattr(Recall, "_run", lambda self, inputs: (seen.add(len(inputs)), run_live(self, inputs))[1])
    cached(epochs=4, **shape)
    assert seen == {48}
    seen.clear()
    cached(epochs=4, augment_seed=1)
    assert 48 in seen and len(seen) > 1


class _uncompiled:
    def __init__(self, *arguments):
        pass

    __enter__ = __exit__ = lambda *arguments: None


def test_a_run_out_of_memory_goes_on_in_parts_with_its_cache(cached, monkeypatch):
    backward, failed = EpochRunner._backward, []

    def short(self, batch, step, share):
        if len(batch) == 48 and step.index == 3 and not failed:
            failed.append(step.index)
            self.learners(batch, step)
            raise torch.OutOfMemoryError("out of memory")
        return backward(self, batch, step, share)

    monkeypatch.setattr(EpochRunner, "_backward", short)
    filled, _ = cached()
    failed.clear()
    again, _ = cached()
    _assert_same(filled, again)
    assert failed


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "deaths"), [("kd", (1, 3, 3)), ("dgkd", (3, 9)), ("sskd", (5,))])
def test_a_run_that_dies_goes_on_to_the_weights_of_one_that_did_not(cached, tmp_path, monkeypatch, method, deaths):
    """What lies in memory is lost with the process, and states are older than what the cache holds."""
    monkeypatch.setattr(rows_module, "_BLOCK_BYTES", 1)  # every batch reaches the disk, states lag behind
    whole, _ = cached(method, teacher_cache=str(tmp_path / "whole"), epochs=4)
    for is_flushing in (True, False):
        if not is_flushing:
            monkeypatch.setattr(rows_module, "_BLOCK_BYTES", 1 << 30)  # nothing does, but with a state
        folder = str(tmp_path / f"cache-{is_flushing}")
        for count in deaths:
            with monkeypatch.context() as dying:
                _die_after(dying, count)
                with pytest.raises(Killed):
                    cached(method, teacher_cache=folder, epochs=4, resume=_every_two(tmp_path))
        _assert_same(whole, cached(method, teacher_cache=folder, epochs=4, resume=_every_two(tmp_path))[0])


def _every_two(tmp_path):
    return Resumption(tmp_path / "state.safetensors", every_s=0, every_steps=2)


def _die_after(monkeypatch, steps):
    """Let the process be gone after so many steps: nothing is flushed on the way out."""
    step_of, done = EpochRunner._step, [0]

    def stepping(self, batch, step):
        if done[0] == steps:
            monkeypatch.setattr(Recall, "flush", lambda self: None)
            raise Killed
        done[0] += 1
        return step_of(self, batch, step)

    monkeypatch.setattr(EpochRunner, "_step", stepping)


def test_a_state_takes_what_was_computed_to_the_disk(cached, tmp_path, monkeypatch):
    kept, write = [], Bookmark._write

    def writing(self, *arguments):
        write(self, *arguments)
        kept.append(len(list((tmp_path / "cache").rglob("*.zst"))))

    monkeypatch.setattr(Bookmark, "_write", writing)
    cached(epochs=1, resume=Resumption(tmp_path / "state.safetensors", every_s=0, every_steps=1))
    assert kept == [1, 2, 2]


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_damaged_block_is_computed_again(cached, tmp_path):
    filled, _ = cached()
    block = sorted((tmp_path / "cache").rglob("*.zst"))[0]
    block.write_bytes(block.read_bytes()[:-1] + b"?")
    again, said = cached()
    assert any("is damaged" in line and "computed again" in line for line in said)
    np.testing.assert_allclose(_losses(again), _losses(filled), rtol=1e-3)
    assert cached()[1][-1].endswith(" 0 computed")


def test_a_full_disk_leaves_training_as_it_is(cached, monkeypatch, tmp_path):
    def refusing(*arguments):
        raise StorageError("cannot write block: No space left on device")

    filled, _ = cached(teacher_cache=str(tmp_path / "other"))
    monkeypatch.setattr(rows_module, "write_block", refusing)
    poor, said = cached()
    np.testing.assert_allclose(_losses(poor), _losses(filled), rtol=1e-3)
    assert sum("outputs are not kept: cannot write block: No space left" in line for line in said) == 1


def test_a_folder_that_is_only_read_is_read(cached, tmp_path, monkeypatch):
    filled, _ = cached()

    def refusing(*arguments):
        raise AssertionError("written")

    monkeypatch.setattr(rows_module, "write_block", refusing)
    monkeypatch.setattr("edgekd.distill.teacher_cache.key.write_json", refusing)
    _assert_same(filled, cached()[0])


def test_another_teacher_is_elsewhere_and_a_changed_forward_is_found(cached, tmp_path, dataset, student, teacher):
    from edgekd.distill import RunOptions, run_recipe

    how = {"student": student, "dataset": dataset, "options": RunOptions(seed=2)}
    settings = TrainSettings(
        epochs=1, batch_size=32, augment="none", device="cpu", teacher_cache=str(tmp_path / "cache")
    )

    def go(net):
        run_recipe(load_recipe("kd"), teacher=(teacher[0], net), settings=settings, **how)

    go(teacher[1])
    moved = copy.deepcopy(teacher[1])
    next(moved.parameters()).data += 1e-6
    go(moved)
    assert len(entries(tmp_path / "cache")) == 2
    changed = copy.deepcopy(teacher[1])
    forward = changed.net.linear.forward
    changed.net.linear.forward = lambda inputs: 1.2 * forward(inputs)
    with pytest.raises(StorageError, match=r"is stale: logits kept there differ .* by 17 % on 32 rows"):
        go(changed)


def test_mixtures_are_refused(cached):
    for name in ("mixup", "cutmix"):
        with pytest.raises(ConfigError, match="a mixture of two samples is another one in every step"):
            cached(**{name: 0.5})


LIVE = {
    "online-checkpoints": "teacher is not kept since it changes from step to step",
    "ekd": "teacher is not kept since it trains in this stage",
    "xcl": "teacher is not kept since view 'extended' makes other inputs in every step",
}


@pytest.mark.parametrize("method", LIVE)
def test_what_cannot_be_kept_is_asked_live_and_said_once(cached, method):
    live, _ = cached(method, teacher_cache=None)
    same, said = cached(method)
    assert sum(LIVE[method] in line for line in said) == 1
    assert not any("spared" in line for line in said)
    _assert_same(live, same)


def test_gradients_at_the_input_are_asked_live(cached):
    terms = [{"type": "cross-entropy"}, {"type": "gradient-match"}]
    recipe = Recipe(name="x", title="x", stages=[{"name": "student", "terms": terms}])
    _, said = cached(recipe)
    assert any("a term reads gradients at its input, so it is asked live" in line for line in said)


def test_plain_training_has_the_batches_of_cached_training(cached):
    plain, said = cached("plain")
    assert not said
    _assert_same(plain, cached("plain", teacher_cache=None)[0])
    assert not np.allclose(_losses(plain), _losses(cached("plain", teacher_cache=None, augment_views=None)[0]))


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_stage_that_would_grow_over_the_limit_is_refused_with_numbers(cached, dataset, student, teacher):
    # 128 samples of 4 logits in 2 bytes are 1,024 bytes a view; top-1 is 1 x (2 + 4) + 2.
    assert cached(epochs=5, augment_views=None, cache_limit_gb=5.12e-6)[0]
    with pytest.raises(ConfigError, match=r"5 view\(s\) of 128 samples.*train.augment_views to at most 4,"):
        cached(epochs=5, augment_views=None, cache_limit_gb=5.11e-6)
    assert cached(epochs=5, augment_views=4, cache_limit_gb=5.11e-6)[0]
    with pytest.raises(ConfigError, match="Raise it, keep fewer logits"):
        cached(cache_limit_gb=1e-6)
    settings = TrainSettings(epochs=5, augment="shift", teacher_cache="none", cache_limit_gb=5.11e-6)
    how = {"student": student, "teacher": teacher, "dataset": dataset, "batch_size": 32}
    with pytest.raises(ConfigError, match="would keep 0.0 MB of teacher outputs"):
        check_recipe(load_recipe("kd"), settings=settings, **how)
    check_recipe(load_recipe("kd"), **how)


def test_top_k_is_for_vectors_of_more_logits(cached, tmp_path):
    filled, _ = cached(cache_top_k=2)
    _assert_same(filled, cached(cache_top_k=2)[0])
    with pytest.raises(ConfigError, match=r"train.cache_top_k=4 keeps fewer logits than a vector has; .* \(4,\)"):
        cached(cache_top_k=4)


def test_settings_that_are_off_leave_the_key_of_a_run_as_it_was():
    off = TrainSettings().deciding()
    assert not [name for name in off if "cache" in name or name.startswith("augment_")]
    assert TrainSettings(cache_limit_gb=1, augment_seed=3, cache_top_k=2).deciding() == off
    on = TrainSettings(teacher_cache="a", augment_views=2)
    assert on.deciding() == on.model_copy(update={"teacher_cache": "b", "cache_limit_gb": 1.0}).deciding() != off
    for name, value in (("augment_views", 3), ("augment_seed", 1), ("cache_dtype", "fp32"), ("cache_top_k", 2)):
        assert on.model_copy(update={name: value}).deciding() != on.deciding()
