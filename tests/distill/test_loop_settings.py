"""What the loop can do beside plain steps, each against something known."""

import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError, DataError, OutOfMemory, TrainingDiverged
from edgekd.core.events import Event
from edgekd.data import Batch, Portion, ResidentSplit, augmentation, batches_ahead, train_batches
from edgekd.distill import Recipe, RunOptions, TrainSettings, load_recipe
from edgekd.distill.blending import blended
from edgekd.distill.ema import MovingAverage
from edgekd.distill.epochs import EpochRunner
from edgekd.distill.layer_rates import LayerRates
from edgekd.distill.learner import Learner, Learners
from edgekd.distill.loop import optimizer_of
from edgekd.distill.net import TracedNet
from edgekd.distill.run import run_stages
from edgekd.distill.schedules import learning_rate
from edgekd.distill.session import Session
from edgekd.distill.stage import build_stage
from edgekd.distill.step import Step
from edgekd.distill.terms import CrossEntropy
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.distill.tree_file import load_tree
from edgekd.models.layers import normalized


def _same(one, other):
    mine, theirs = one.student.state_dict(), other.student.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def _distance(one, other):
    mine, theirs = one.student.state_dict(), other.student.state_dict()
    return max((mine[name].float() - theirs[name].float()).abs().max().item() for name in mine)


def _on(**changed):
    return TrainSettings(**{"epochs": 2, "batch_size": 32, "augment": "none", "device": "cpu", **changed})


# --- accumulation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trained_linear(dataset):
    """Train a network without batch norms by hand-built stages; returns its weights."""

    def go(terms, **changed):
        def net(seed, width):
            torch.manual_seed(seed)
            layers = [torch.nn.Conv2d(1, width, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(width * 36, 8)]
            backbone = torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(8, 4))
            return TracedNet(backbone, penultimate="4")

        recipe = Recipe(name="x", title="x", stages=[{"name": "student", "terms": terms, "keep": "last"}])
        with torch.random.fork_rng():
            session = Session({"student": net(1, 3), "teacher": net(2, 5)}, (1, 8, 8), 0)
            options = RunOptions(seed=3)
            run_stages(recipe, session, dataset=dataset, settings=_on(**changed), options=options)
        return torch.cat([value.flatten() for value in session.net("student").state_dict().values()])

    return go


BY_ROW = [{"type": "cross-entropy"}, {"type": "kd", "temperature": 2.0, "weight": 3.0}, {"type": "dkd"}]
BY_BATCH = [{"type": "cross-entropy"}, {"type": "pkt", "weight": 1000.0}]


@pytest.mark.parametrize("parts", [2, 4, 5])
def test_a_batch_in_parts_is_the_whole_batch_where_losses_are_by_row(trained_linear, parts):
    whole, in_parts = trained_linear(BY_ROW), trained_linear(BY_ROW, accumulate=parts)
    torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-5)
    mixed = [trained_linear(BY_ROW[:2], accumulate=count, mixup=0.5, augment="shift") for count in (1, parts)]
    torch.testing.assert_close(*mixed, rtol=1e-4, atol=1e-5)


def test_a_batch_in_parts_is_another_where_rows_are_compared(trained_linear):
    difference = (trained_linear(BY_BATCH) - trained_linear(BY_BATCH, accumulate=4)).abs().max()
    assert difference > 1e-3


def test_parts_must_leave_rows(run):
    with pytest.raises(ConfigError, match="batches of 32 rows in 20 parts leave fewer than 2 rows"):
        run("kd", settings=_on(accumulate=20))


# --- averaged weights -----------------------------------------------------------------------------------------------


def _learners(value=0.0):
    backbone = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    torch.nn.init.constant_(backbone[0].weight, value)
    return Learners([Learner("student", TracedNet(backbone, penultimate="0"), [], [])])


def test_an_average_follows_with_a_warm_up():
    learners = _learners()
    average, plain = MovingAverage(learners, decay=0.9), MovingAverage(learners, decay=0.9, is_warming=False)
    expected, decays = 0.0, []
    for step in range(1, 100):
        torch.nn.init.constant_(learners.first.net.backbone[0].weight, float(step))
        average.follow(learners)
        plain.follow(learners)
        keep = min(0.9, (1 + step) / (10 + step))
        decays.append(average.decay)
        assert average.decay == keep and plain.decay == 0.9
        expected = keep * expected + (1 - keep) * step
    assert decays[0] == 2 / 11 and decays[-1] == 0.9
    with average.in_place(learners):
        assert learners.first.net.backbone[0].weight[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert learners.first.net.backbone[0].weight[0, 0].item() == 99


def test_averaged_weights_are_evaluated_and_exported(run):
    last = run("kd", settings=_on(select="last"))
    averaged = run("kd", settings=_on(select="last", ema=0.5, ema_warmup=False))
    slow = run("kd", settings=_on(select="last", ema=1 - 1e-7, ema_warmup=False))
    assert not _same(last, averaged)
    assert [epoch.loss for epoch in averaged.history] == [epoch.loss for epoch in last.history]
    # An average that does not move is the network that training starts from, and scores like it in every epoch.
    assert slow.history[0].val_score == slow.history[1].val_score
    assert _distance(slow, last) > 1e-3


def test_an_average_of_one_step_is_the_last_step(run):
    averaged = run("kd", settings=_on(ema=1e-9, ema_warmup=False, select="last"))
    assert _distance(averaged, run("kd", settings=_on(select="last"))) < 1e-6


# --- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "progress", "share"),
    [
        ({"schedule": "wsd", "decay": 0.2}, 0.5, 1.0),
        ({"schedule": "wsd", "decay": 0.2}, 0.9, 0.5),
        ({"schedule": "wsd", "decay": 0.2, "lr_floor": 0.1}, 1.0, 0.1),
        ({"schedule": "wsd", "decay": 0.5, "warmup": 0.1}, 0.05, 0.5),
        ({"schedule": "cosine"}, 0.5, 0.5),
        ({"schedule": "cosine", "lr_floor": 0.2}, 1.0, 0.2),
        ({"schedule": "constant", "warmup": 0.5}, 0.25, 0.5),
        ({"schedule": "multistep"}, 0.8, 0.01),
    ],
)
def test_the_rate_follows_its_schedule(changed, progress, share):
    settings = _on(lr=0.4, **changed)
    assert learning_rate(settings, settings.milestones, progress) == pytest.approx(0.4 * share)


# --- layers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def groups(train):
    """The optimiser's multiples of the rate by parameter name of the student."""
    session = train("plain", epochs=1)

    def go(**rates):
        stage = build_stage(load_recipe("plain").stages[0], session, LayerRates(**rates))
        names = {id(value): name for name, value in session.net("student").backbone.named_parameters()}
        return {
            names[id(parameter)]: group["lr_scale"]
            for group in optimizer_of(stage, _on()).param_groups
            for parameter in group["params"]
        }

    return go


def test_lower_layers_change_less(groups):
    alike, decayed = groups(), groups(decay=0.5)
    assert set(alike.values()) == {1.0} and alike.keys() == decayed.keys()
    order = list(alike)
    scales = [decayed[name] for name in order]
    assert scales == sorted(scales) and len(set(scales)) >= 4
    assert scales[-1] == 1.0 and scales[0] == min(scales) < 0.2


def test_layers_are_held_by_path_and_the_longest_path_counts(groups, run):
    names = list(groups())
    top = names[0].split(".")[0]
    first = names[0].rpartition(".")[0]
    scales = groups(by_path={top: 0.5, first: 0.0})
    assert scales[names[0]] == 0.0 and scales[names[-1]] == 0.5
    with pytest.raises(ConfigError, match="unknown module of the student in train.layer_lr 'nowhere'"):
        groups(by_path={"nowhere": 0.5})
    still = run("plain", with_teacher=False, settings=_on(layer_lr={top: 0.0}, select="last"))
    before = run("plain", with_teacher=False, settings=_on(lr=1e-30, select="last"))
    one, other = still.student.state_dict(), before.student.state_dict()
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-20) for name in names)


def test_a_students_layers_have_a_multiple_beside_all_others(groups, run):
    decayed = groups(decay=0.5)
    assert groups(decay=0.5, student=0.1) == pytest.approx({name: 0.1 * scale for name, scale in decayed.items()})
    first = next(iter(decayed))
    scales = groups(student=0.1, by_path={first.rpartition(".")[0]: 0.5})
    assert scales[first] == pytest.approx(0.05) and scales[list(decayed)[-1]] == pytest.approx(0.1)
    still = run("kd", settings=_on(student_lr=1e-30, select="last"))
    before = run("kd", settings=_on(lr=1e-30, select="last"))
    assert _distance(still, before) < 1e-12 < _distance(still, run("kd", settings=_on(select="last")))


def test_what_a_term_adds_keeps_its_rate(train):
    session = train("fitnet", epochs=1)
    stage = build_stage(load_recipe("fitnet").stages[-1], session, LayerRates(student=0.1))
    own = {id(parameter) for parameter in session.net("student").backbone.parameters()}
    scales = {
        (id(parameter) in own, round(group["lr_scale"], 6))
        for group in optimizer_of(stage, _on()).param_groups
        for parameter in group["params"]
    }
    assert scales == {(True, 0.1), (False, 1.0)}


def test_a_rate_that_is_not_set_leaves_the_key_of_a_run():
    assert "student_lr" not in _on().deciding() and _on(student_lr=0.5).deciding()["student_lr"] == 0.5


# --- mixing ---------------------------------------------------------------------------------------------------------


def _batch(rows=6):
    inputs = torch.arange(rows, dtype=torch.float32).view(-1, 1, 1, 1).expand(rows, 1, 8, 8).clone()
    return Batch(inputs, torch.arange(rows), torch.arange(rows), torch.ones(rows, dtype=torch.bool))


def test_mixup_gives_both_labels_the_shares_of_their_pictures():
    mixed = blended(_batch(), Step(3, 9, 0), _on(mixup=1.0))
    share = mixed.blend.shares[0]
    assert 0 < share < 1 and torch.equal(mixed.blend.shares, share.expand(6))
    expected = share * mixed.labels + (1 - share) * mixed.blend.labels
    torch.testing.assert_close(mixed.inputs[:, 0, 4, 4], expected)
    assert (mixed.ids == -1).all()
    assert torch.equal(mixed.inputs, blended(_batch(), Step(3, 9, 1), _on(mixup=1.0)).inputs)
    assert not torch.equal(mixed.inputs, blended(_batch(), Step(4, 9, 0), _on(mixup=1.0)).inputs)


@pytest.mark.parametrize("index", range(4))
def test_cutmix_counts_pixels(index):
    mixed = blended(_batch(), Step(index, 9, 0), _on(cutmix=1.0))
    assert set(mixed.inputs.unique().tolist()) <= set(range(6))
    for row in range(6):
        own = (mixed.inputs[row] == mixed.labels[row]).float().mean()
        if mixed.labels[row] != mixed.blend.labels[row]:
            assert own.item() == pytest.approx(mixed.blend.shares[row].item())


def test_cross_entropy_of_mixed_inputs_is_that_towards_soft_labels():
    mixed = blended(_batch(4), Step(0, 9, 0), _on(mixup=1.0))
    logits = torch.randn(4, 4)
    spec = TraceSpec(4, {"f": (4,)}, "f")
    trace = Trace(logits, {}, {}, mixed.inputs)
    soft = torch.zeros(4, 4)
    for row in range(4):
        soft[row, mixed.labels[row]] += mixed.blend.shares[row]
        soft[row, mixed.blend.labels[row]] += 1 - mixed.blend.shares[row]
    expected = torch.nn.functional.cross_entropy(logits, soft, reduction="none")
    torch.testing.assert_close(CrossEntropy(spec, spec)(trace, trace, mixed, Step(0, 9, 0)), expected)


def test_mixing_is_refused_where_one_class_an_input_is_read_or_a_stage_mixes(run):
    with pytest.raises(ConfigError, match="loss term 'dkd' reads one class of each input, mixed inputs have two"):
        run("dkd", settings=_on(mixup=0.2))
    with pytest.raises(ConfigError, match="changes batches itself .mixed.: leave train.mixup"):
        run("mixup-kd", settings=_on(cutmix=1.0))


def test_teacher_and_student_see_the_same_pictures_each_in_its_own_normalisation_and_resolution(dataset):
    seen = {}

    def net(role, mean, resolution):
        class Watch(torch.nn.Module):
            def forward(self, inputs):
                seen[role] = inputs
                return inputs.flatten(1)

        return TracedNet(normalized(Watch(), (mean,), (0.5,)), penultimate="net", resolution=resolution)

    batch = next(train_batches(dataset.train, batch_size=8, epoch=0, seed=1, augment=augmentation("crop-flip")))
    mixed = blended(batch, Step(0, 9, 0), _on(mixup=1.0))
    teacher, student = net("teacher", 0.1, 16), net("student", 0.4, 0)
    teacher.backbone(teacher._resized(mixed.inputs))
    student.backbone(student._resized(mixed.inputs))
    torch.testing.assert_close(seen["student"], (mixed.inputs - 0.4) / 0.5)
    large = torch.nn.functional.interpolate(mixed.inputs, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen["teacher"], (large - 0.1) / 0.5)


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crop-flip", "shift+randaugment", "randaugment-n3-m20"])
def test_workers_make_the_very_batches_in_any_number_and_from_any_step(dataset, name):
    how = {"batch_size": 32, "epoch": 1, "seed": 5, "augment": augmentation(name)}
    expected = list(train_batches(dataset.train, **how))
    for workers, first in ((1, 0), (2, 2)):
        made = list(batches_ahead(dataset.train, **how, workers=workers, first=first))
        assert len(made) == len(expected) - first
        for one, other in zip(made, expected[first:], strict=True):
            assert torch.equal(one.inputs, other.inputs) and torch.equal(one.ids, other.ids)


@pytest.mark.parametrize("name", ["none", "crop-flip", "shift+randaugment"])
def test_a_portion_of_a_batch_is_these_rows_of_it(dataset, name):
    how = {"batch_size": 32, "epoch": 0, "seed": 5}
    whole = list(train_batches(dataset.train, **how, augment=augmentation(name)))
    for index in range(4):
        portion = Portion(index, 4)
        parts = list(train_batches(dataset.train, **how, augment=augmentation(name), portion=portion, first=1))
        assert all(torch.equal(p.inputs, w.inputs[portion.rows(32)]) for p, w in zip(parts, whole[1:], strict=True))
        if "randaugment" not in name:
            resident = ResidentSplit(dataset.train, augmentation(name), torch.device("cpu"))
            held = resident.batches(**how, portion=portion, first=1)
            assert all(torch.equal(p.inputs, h.inputs) for p, h in zip(parts, held, strict=True))


def test_randaugment_changes_pixels_and_nothing_else():
    augment = augmentation("randaugment-n2-m15")
    pictures = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(20)
    changed, same = augment(pictures, labels, np.random.default_rng(1))
    assert changed.shape == pictures.shape and changed.dtype == np.uint8 and (same == labels).all()
    assert 5 < sum((one != other).any() for one, other in zip(changed, pictures, strict=True)) <= 20
    assert (augment(pictures, labels, np.random.default_rng(1))[0] == changed).all()
    with pytest.raises(ConfigError, match="moves pixels but no label maps"):
        augment(pictures, np.zeros((20, 16, 16), np.int64), np.random.default_rng(1))
    with pytest.raises(ConfigError, match="strength .31. in 0..30"):
        augmentation("randaugment-n2-m31")


def test_a_dead_worker_is_told_with_what_to_do(dataset, run):
    @dataclass(frozen=True)
    class Deadly:
        def __call__(self, inputs, labels, rng):
            os.kill(os.getpid(), signal.SIGKILL)

    batches = batches_ahead(dataset.train, batch_size=32, epoch=0, seed=0, augment=Deadly(), workers=1)
    with pytest.raises(DataError, match="a data worker died .*Run the same command again"):
        next(batches)


# --- the end of a stage, and what goes wrong ------------------------------------------------------------------------


def test_a_stage_ends_when_its_score_no_longer_rises(run):
    told: list[Event] = []
    outcome = run("kd", settings=_on(epochs=20, lr=1e-12, patience=2), listener=told.append)
    assert len(outcome.history) == 3
    assert any("ends after epoch 3: no better score in 2" in event.message for event in told)
    assert len(run("kd", settings=_on(epochs=4, lr=1e-12)).history) == 4


def test_a_batch_that_makes_the_loss_infinite_is_kept(run, tmp_path):
    with pytest.raises(TrainingDiverged, match="the batch is kept in .*student.diverged.safetensors"):
        run("kd", settings=_on(lr=1e30), folder=tmp_path)
    kept = load_tree(tmp_path / "student.diverged.safetensors")
    assert kept["inputs"].shape == (32, 1, 8, 8) and len(kept["ids"]) == 32 and kept["step"] >= 1


@pytest.fixture
def short_of_memory(monkeypatch):
    """Let steps of more rows than these at once fail as PyTorch does where memory is short."""
    backward = EpochRunner._backward

    def go(rows):
        def limited(self, batch, step, share):
            if len(batch) > rows:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
            return backward(self, batch, step, share)

        monkeypatch.setattr(EpochRunner, "_backward", limited)

    return go


def test_short_of_memory_a_batch_is_halved_once_and_says_so(run, short_of_memory):
    expected = run("kd", settings=_on(accumulate=2))
    told: list[Event] = []
    short_of_memory(16)
    assert _same(run("kd", settings=_on(), listener=told.append), expected)
    (note,) = [event.message for event in told if event.kind == "note"]
    assert "out of memory: batches of 32 are now worked through in 2 parts" in note and "GiB free" in note


def test_still_short_of_memory_it_stops_with_the_numbers(run, short_of_memory):
    short_of_memory(8)
    with pytest.raises(OutOfMemory, match="16 rows at once do not fit; .* GiB here, .* GiB free.*train.accumulate=4"):
        run("kd", settings=_on())
    whole = load_recipe("knowledge-selection")
    deciding = whole.model_copy(update={"stages": whole.stages[-1:]})
    with pytest.raises(OutOfMemory, match="32 rows at once do not fit"):
        run(deciding, settings=_on())


def test_cuda_graphs_need_a_gpu(run):
    with pytest.raises(ConfigError, match="CUDA graphs need a CUDA GPU"):
        run("kd", settings=_on(cuda_graphs=True))


def test_other_errors_are_not_taken_for_memory(run, monkeypatch):
    def failing(self, batch, step, share):
        raise RuntimeError("something else")

    monkeypatch.setattr(EpochRunner, "_backward", failing)
    with pytest.raises(RuntimeError, match="something else"):
        run("kd")


def test_settings_that_decide_nothing_are_no_part_of_a_runs_key():
    one, other = _on(), _on(workers=3, checkpoint_every_s=1, keep_checkpoints=5)
    assert one.deciding() == other.deciding() and "lr" in one.deciding()


def test_losses_are_logged_every_so_many_steps(run, settings):
    events = []
    run("kd", settings=settings.model_copy(update={"log_every": 3}), listener=events.append, label="x")
    steps = [event for event in events if event.kind == "step"]
    assert [(event.done, event.total) for event in steps] == [(3, 8), (6, 8)]
    assert all({"loss", "lr", "cross-entropy", "kd"} <= event.values.keys() for event in steps)
    assert {event.stage for event in steps} == {"x/student"}
    epochs = [event for event in events if event.kind == "progress"]
    assert [event.values["step"] for event in epochs] == [4, 8]
