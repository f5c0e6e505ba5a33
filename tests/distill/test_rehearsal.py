"""What does not fit is refused on a few rows, before anything is trained."""

import copy
import dataclasses

import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.data import Task
from edgekd.distill import check_recipe, load_recipe, recipe_names
from edgekd.distill.recipe import Recipe
from edgekd.models import build


@pytest.fixture
def check(student, teacher, dataset, pretrained):
    def go(recipe, *, student=student, teacher=teacher, dataset=dataset, batch_size=32, settings=None):
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        start = pretrained if recipe.needs_pretrained_student else {}
        check_recipe(
            recipe,
            student=student,
            teacher=teacher,
            dataset=dataset,
            batch_size=batch_size,
            start=start,
            settings=settings,
        )

    return go


def _recipe(*terms, **stage):
    return Recipe(name="t", title="t", stages=[{"name": "student", "terms": list(terms), **stage}])


@pytest.mark.parametrize("method", [name for name in recipe_names() if name not in ("modality-gram", "gkd-cls")])
def test_every_recipe_that_fits_passes_and_nothing_given_or_global_changes(check, teacher, method):
    before, chance = copy.deepcopy(teacher[1].state_dict()), torch.get_rng_state()
    check(method)
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(value, before[name]) for name, value in teacher[1].state_dict().items())
    assert not teacher[1].training


@pytest.mark.parametrize(
    "method, least",
    [("sp", 2), ("rkd", 3), ("cc", 2), ("pkt", 2), ("cka", 2), ("info-nce", 2), ("dist", 2), ("mlkd", 2)],
)
def test_methods_that_compare_the_rows_of_a_batch_refuse_smaller_ones(check, method, least):
    check(method, batch_size=least)
    with pytest.raises(ConfigError, match=rf"compares the rows of a batch: it needs {least}, a batch has {least - 1}"):
        check(method, batch_size=least - 1)


def test_methods_that_compare_rows_refuse_parts_of_a_batch_that_are_too_small(check, settings):
    check("rkd", settings=settings.model_copy(update={"accumulate": 10}))
    with pytest.raises(ConfigError, match="'rkd-angle'.*it needs 3, a part of a batch of 32 has 2"):
        check("rkd", settings=settings.model_copy(update={"accumulate": 11}))


@pytest.mark.parametrize(
    "method, changed, words",
    [
        ("dkd", {"mixup": 0.2}, "loss term 'dkd' reads one class of each input, mixed inputs have two"),
        ("sskd", {"cutmix": 1.0}, r"changes batches itself \(rotations\)"),
        ("gkd", {"compile": "default"}, "reads gradients with respect to inputs: set train.compile=no"),
    ],
)
def test_settings_that_a_method_cannot_be_trained_with_are_refused(check, settings, method, changed, words):
    check(method, settings=settings)
    check("kd", settings=settings.model_copy(update=changed))
    with pytest.raises(ConfigError, match=words):
        check(method, settings=settings.model_copy(update=changed))


@pytest.mark.parametrize("method", ["dkd"])
def test_methods_on_the_classes_that_are_not_right_refuse_two_classes(check, dataset, method):
    spec = NetSpec("resnet", 8, 2, 8, 1, 2, (0.3,), (0.2,))
    halved = {
        name: dataclasses.replace(
            getattr(dataset, name), labels=getattr(dataset, name).labels % 2, task=Task("classification", ("a", "b"))
        )
        for name in ("train", "val", "test")
    }
    two = dataclasses.replace(dataset, **halved)
    with pytest.raises(ConfigError, match="needs at least 3 classes, this task has 2"):
        check(method, student=spec, teacher=(spec, build(spec)), dataset=two)


def test_a_missing_layer_is_refused_with_candidates(check):
    term = {"type": "fitnet", "pairs": [["net.layer9", "net.layer1"]]}
    with pytest.raises(ConfigError, match=r"'net\.layer9'.*did you mean"):
        check(_recipe({"type": "cross-entropy"}, term))


def test_a_late_stage_is_looked_at_too(check):
    stages = [
        {"name": "first", "terms": [{"type": "cross-entropy"}]},
        {"name": "second", "terms": [{"type": "kd", "part": "aux:none.logits"}]},
    ]
    with pytest.raises(ConfigError, match="unknown attachment output 'none.logits'"):
        check(Recipe(name="t", title="t", stages=stages))


def test_a_loss_that_is_not_finite_at_the_start_is_named(check, dataset, teacher):
    broken = copy.deepcopy(teacher[1])
    broken.net.linear.weight.data.fill_(float("nan"))
    with pytest.raises(ConfigError, match="kd is not finite on the first training rows"):
        check("kd", teacher=(teacher[0], broken))
