"""Properties of whole recipes: equalities between methods, no leakage, determinism, bad input."""

import copy

import numpy as np
import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError, TrainingDiverged
from edgekd.data import ArrayImages, Split
from edgekd.distill import RunOptions, TrainSettings, evaluate, fidelity, load_recipe, recipe_names, run_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.specs import SourceSpec
from edgekd.distill.threads import threads_for


def _weights(outcome):
    return {name: value.clone() for name, value in outcome.student.state_dict().items()}


def _assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def _differ(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


def _recipe(*terms, **stage):
    return Recipe(name="test", title="test", stages=[{"name": "student", "terms": list(terms), **stage}])


def test_training_is_a_function_of_the_seed(run):
    first = _weights(run("mas", seed=3))
    torch.manual_seed(99)
    _assert_equal(first, _weights(run("mas", seed=3)))
    assert _differ(first, _weights(run("mas", seed=4)))


def test_kd_without_a_soft_term_is_plain_training(run):
    kd = _recipe({"type": "cross-entropy"}, {"type": "kd", "weight": 0.0})
    _assert_equal(_weights(run(kd)), _weights(run("plain", with_teacher=False)))


def test_similarity_preserving_without_weight_is_plain_training(run):
    sp = _recipe({"type": "cross-entropy"}, {"type": "similarity-preserving", "weight": 0.0})
    _assert_equal(_weights(run(sp)), _weights(run("plain", with_teacher=False)))


def _mag_without(recipe, *, codes=True, mean_of=None):
    stage = recipe.stages[-1]
    terms = [t.model_copy(update={"weight": 0.0}) if codes and "code" in str(t.options) else t for t in stage.terms]
    source = stage.source if mean_of is None else (SourceSpec(type="frozen", mean_of=mean_of),)
    return recipe.model_copy(
        update={"stages": (*recipe.stages[:-1], stage.model_copy(update={"terms": tuple(terms), "source": source}))}
    )


def test_mag_without_its_codes_is_kd_with_the_papers_weights(run):
    kd = _recipe({"type": "cross-entropy", "weight": 0.2}, {"type": "kd", "weight": 0.8, "temperature": 4.0})
    _assert_equal(_weights(run(_mag_without(load_recipe("mag")))), _weights(run(kd)))


def test_mas_that_averages_nothing_but_the_logits_is_mag(run):
    mas = _mag_without(load_recipe("mas"), codes=False, mean_of=("logits", "logits", "logits"))
    one, other = _weights(run(mas)), _weights(run("mag"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)
    assert _differ(_weights(run("mas")), other)


ON_PICTURES = [name for name in recipe_names() if name not in ("modality-gram", "gkd-cls")]


@pytest.mark.parametrize("method", [*ON_PICTURES, "mag+sp", "mas+vid", "sftn+mag+sp"])
def test_every_recipe_trains_the_student_and_leaves_the_teacher_untouched(run, teacher, method):
    teacher[1].requires_grad_(True)
    before = copy.deepcopy(teacher[1].state_dict())
    outcome = run(method)
    _assert_equal(before, teacher[1].state_dict())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher[1].parameters())
    assert outcome.history[-1].loss < 1e4
    assert all(np.isfinite(list(record.terms.values())).all() for record in outcome.history)
    start = run(method, settings=TrainSettings(epochs=1, lr=1e-12, batch_size=32, augment="none", device="cpu"))
    trained = [name for name, _ in outcome.student.named_parameters()]
    assert all((outcome.student.get_parameter(n) != start.student.get_parameter(n)).any() for n in trained)


def test_the_student_carries_no_auxiliary_module(run):
    names = set(_weights(run("mas+vid")))
    assert names == set(_weights(run("plain", with_teacher=False)))


def test_kd_moves_the_student_towards_the_teacher(run, dataset, teacher):
    settings = TrainSettings(epochs=12, batch_size=32, augment="none", device="cpu")
    only_teacher = _recipe({"type": "kd", "temperature": 2.0})
    follower = run(only_teacher, settings=settings).student
    stranger = run(
        "plain", settings=TrainSettings(epochs=1, lr=1e-9, batch_size=32, augment="none", device="cpu")
    ).student
    near = fidelity({"student": follower, "teacher": teacher[1]}, dataset.test)
    far = fidelity({"student": stranger, "teacher": teacher[1]}, dataset.test)
    assert near["kl"] < 0.5 * far["kl"]
    assert near["agreement"] > far["agreement"] + 0.2


def test_a_network_agrees_with_itself(dataset, teacher):
    figures = fidelity({"student": teacher[1], "teacher": teacher[1]}, dataset.test)
    assert figures["agreement"] == 1.0
    assert abs(figures["kl"]) < 1e-9


def test_evaluate_equals_counting_by_hand(dataset, teacher):
    images = torch.from_numpy(dataset.test.inputs.gather(np.arange(48))).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = teacher[1](images)
    hits = sum(int(row.argmax()) == label for row, label in zip(logits, dataset.test.labels, strict=True))
    nll = -np.mean(
        [
            torch.log_softmax(row.double(), 0)[label].item()
            for row, label in zip(logits, dataset.test.labels, strict=True)
        ]
    )
    result = evaluate(teacher[1], dataset.test)
    assert result.score == hits / 48
    assert result.nll == pytest.approx(nll, rel=1e-5)
    assert result.samples == 48


def test_evaluate_uses_running_statistics_and_restores_the_mode(dataset, teacher):
    net = copy.deepcopy(teacher[1]).train()
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    assert evaluate(net, dataset.test) == evaluate(teacher[1], dataset.test)
    assert net.training
    assert all(torch.equal(value, buffers[name]) for name, value in net.named_buffers())


def test_small_steps_get_one_thread_and_the_setting_before_is_restored(run, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    run("plain", settings=TrainSettings(epochs=1, batch_size=32, augment="none", device="cpu"))
    run("plain", settings=TrainSettings(epochs=1, batch_size=32, augment="none", device="cpu", threads=3))
    assert calls == [1, 7, 3, 7]
    assert threads_for(10**9) == 7
    assert threads_for(10**9 - 1) == 1


def test_the_test_split_takes_no_part_in_training(run, dataset, student, settings, teacher):
    poisoned = Split(ArrayImages(np.zeros((4, 8, 8, 1), np.uint8)), np.zeros(4, np.int64), dataset.task)
    other = type(dataset)(**{**dataset.__dict__, "test": poisoned})
    outcome = run_recipe(
        load_recipe("kd"), student=student, teacher=teacher, dataset=other, settings=settings, options=RunOptions()
    )
    _assert_equal(_weights(outcome), _weights(run("kd")))


def test_the_teachers_branches_do_not_depend_on_the_student(run, dataset, settings, teacher):
    wider = run_recipe(
        load_recipe("mag"),
        student=NetSpec("resnet", 8, 4, 8, 1, 4, (0.3,), (0.2,)),
        teacher=teacher,
        dataset=dataset,
        settings=settings,
        options=RunOptions(),
    )
    assert wider.history[0].loss == run("mag").history[0].loss


def test_the_best_epoch_on_the_held_out_split_is_kept(run, dataset):
    settings = TrainSettings(epochs=5, batch_size=32, augment="none", device="cpu", schedule="constant", lr=1.5)
    best = run("plain", settings=settings, seed=3)
    accuracies = [record.val_score for record in best.history]
    assert accuracies[-1] < max(accuracies), "this seed no longer tells best from last; choose another"
    assert evaluate(best.student, dataset.val).score == max(accuracies)
    last = run("plain", settings=settings.model_copy(update={"select": "last"}), seed=3)
    assert evaluate(last.student, dataset.val).score == accuracies[-1]


def test_a_stage_may_keep_its_last_epoch_whatever_the_run_selects(run, dataset):
    settings = TrainSettings(epochs=5, batch_size=32, augment="none", device="cpu", schedule="constant", lr=1.5)
    stage = {"name": "student", "source": {"type": "self"}, "terms": [{"type": "cross-entropy"}], "keep": "last"}
    last = run(Recipe(name="t", title="t", stages=[stage]), settings=settings, seed=3)
    accuracies = [record.val_score for record in last.history]
    assert accuracies[-1] < max(accuracies)
    assert evaluate(last.student, dataset.val).score == accuracies[-1]


def test_learning_rates_follow_the_schedule_over_the_whole_stage_and_the_stages_own_scale(run):
    settings = TrainSettings(epochs=4, batch_size=32, augment="none", device="cpu", schedule="multistep", lr=0.04)
    history = run("mag", settings=settings.model_copy(update={"milestones": (0.5, 0.75)})).history
    branches, student = (
        [record.lr for record in history if record.stage == stage] for stage in ("teacher-branches", "student")
    )
    assert student == pytest.approx([0.04, 0.04, 0.004, 0.0004])
    assert branches == pytest.approx([0.2 * 0.0004])  # the last of its steps lies beyond both milestones


def test_a_teacher_of_another_resolution_sees_resized_pictures(dataset, student, settings):
    spec = NetSpec("resnet", 8, 4, 16, 1, 4, (0.3,), (0.2,))
    from edgekd.models import build

    seen = []
    net = build(spec).eval()
    teacher = (spec, net)
    original = type(net).forward
    handle = net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    run_recipe(
        load_recipe("kd"), student=student, teacher=teacher, dataset=dataset, settings=settings, options=RunOptions()
    )
    handle.remove()
    assert original is type(net).forward
    assert seen == [] or set(seen) == {16}


def test_a_stage_of_weight_zero_is_refused(run):
    with pytest.raises(ConfigError, match="every term has weight 0"):
        run(_recipe({"type": "kd", "weight": 0}))


def test_a_recipe_without_its_teacher_is_refused(run):
    with pytest.raises(ConfigError, match="needs a teacher"):
        run("kd", with_teacher=False)


def test_a_teacher_with_other_classes_is_refused(dataset, student, settings):
    from edgekd.models import build

    spec = NetSpec("resnet", 8, 4, 8, 1, 7, (0.3,), (0.2,))
    with pytest.raises(ConfigError, match=r"\(4,\).*\(7,\)"):
        run_recipe(
            load_recipe("kd"),
            student=student,
            teacher=(spec, build(spec)),
            dataset=dataset,
            settings=settings,
            options=RunOptions(),
        )


def test_divergence_stops_says_where_and_keeps_the_last_good_checkpoint(run, tmp_path):
    settings = TrainSettings(epochs=3, batch_size=32, augment="none", device="cpu", schedule="constant", lr=1e12)
    ramp = _recipe(
        {"type": "cross-entropy", "weight": {"start": 0.0, "end": 1e30, "over": 1.0}}, source={"type": "self"}
    )
    with pytest.raises(TrainingDiverged) as error:
        run(ramp, settings=settings, folder=tmp_path)
    message = str(error.value)
    assert "stage 'student', epoch" in message
    assert "cross-entropy = " in message
    assert "no epoch had finished" in message or (tmp_path / "student.safetensors").exists()


def test_the_last_good_checkpoint_is_written_each_epoch(run, tmp_path):
    outcome = run(
        "plain",
        folder=tmp_path,
        settings=TrainSettings(epochs=2, batch_size=32, augment="none", device="cpu", select="last"),
    )
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "student.safetensors")
    for name, value in outcome.student.state_dict().items():
        assert torch.equal(saved[f"backbone.{name}"], value)


def test_precision_may_change_between_runs_of_one_process(run):
    full = run("mas")
    half = run("mas", settings=TrainSettings(epochs=2, batch_size=32, augment="none", device="cpu", precision="bf16"))
    assert half.history[-1].loss == pytest.approx(full.history[-1].loss, rel=0.1)
    assert half.history[-1].loss != full.history[-1].loss
    assert all(value.dtype != torch.bfloat16 for value in half.student.state_dict().values())


def test_progress_is_told_once_an_epoch(run):
    events = []
    run("mag", label="seed0", listener=events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [
        ("seed0/teacher-branches", 1, 1),
        ("seed0/student", 1, 2),
        ("seed0/student", 2, 2),
    ]
    assert all({"loss", "val_score", "lr"} <= event.values.keys() for event in events)


def test_a_cuda_device_that_is_not_there_is_refused(run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    with pytest.raises(ConfigError, match="cuda"):
        run("plain", settings=TrainSettings(epochs=1, device="cuda"))


def test_adamw_takes_a_first_step_of_the_learning_rate_after_shrinking_the_weights(run):
    lr, decay = 0.01, 0.1
    one_step = {"batch_size": 128, "augment": "none", "device": "cpu", "select": "last", "schedule": "constant"}
    before = _weights(run("plain", settings=TrainSettings(epochs=1, lr=1e-12, optimizer="adamw", **one_step)))
    settings = TrainSettings(epochs=1, lr=lr, optimizer="adamw", weight_decay=decay, **one_step)
    after = _weights(run("plain", settings=settings))
    moved = []
    for name in before:
        if name.endswith(("weight", "bias")):
            moved.append(((after[name] - before[name] * (1 - lr * decay)).abs() / lr).flatten())
    steps = torch.cat(moved)
    # |m / (sqrt(v) + eps)| is 1 after one step, but where the gradient is near eps (1e-8).
    assert steps.max().item() == pytest.approx(1.0, abs=1e-3)
    assert (steps > 0.99).float().mean() > 0.95
