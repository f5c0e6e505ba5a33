"""TL+KD: where the student starts, what tells it from fine-tuning alone, and what the warm-up trains."""

import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.distill import check_recipe, classifier_of, load_recipe
from edgekd.distill import run as runs
from edgekd.distill.recipe import Recipe, compose
from edgekd.distill.roles import open_session
from edgekd.distill.stage import build_stage
from edgekd.models import build

HEAD = {"net.linear.weight", "net.linear.bias"}


def _same(one, other):
    return {name for name in one if torch.equal(one[name], other[name])}


def _with_weights(recipe, **weights):
    stages = []
    for stage in recipe.stages:
        terms = tuple(term.model_copy(update={"weight": weights[term.type.replace("-", "_")]}) for term in stage.terms)
        stages.append(stage.model_copy(update={"terms": terms}))
    return recipe.model_copy(update={"stages": tuple(stages)})


def test_the_student_starts_from_the_given_weights_and_draws_what_they_lack(run, pretrained, monkeypatch):
    seen = []
    stages = runs.run_stages

    def spy(recipe, session, **options):
        seen.append({name: value.clone() for name, value in session.net("student").backbone.state_dict().items()})
        return stages(recipe, session, **options)

    monkeypatch.setattr(runs, "run_stages", spy)
    run("tl-kd")
    headless = {name: value for name, value in pretrained.items() if name not in HEAD}
    run("tl-kd", start=headless)
    run("plain", with_teacher=False)
    assert _same(seen[0], pretrained) == set(pretrained)
    assert _same(seen[1], pretrained) == set(headless)
    assert _same(seen[1], seen[2]) >= HEAD


def test_without_kd_it_is_fine_tuning_alone(run):
    fine_tuned = run("tl", with_teacher=False).student.state_dict()
    silent = run(_with_weights(load_recipe("tl-kd"), cross_entropy=1.0, kd=0.0)).student.state_dict()
    assert _same(silent, fine_tuned) == set(fine_tuned)
    guided = run("tl-kd").student.state_dict()
    assert _same(guided, fine_tuned) != set(fine_tuned)


def test_the_baseline_differs_in_terms_and_teacher_alone():
    recipe = load_recipe("tl-kd")
    assert recipe.baseline == "tl" and recipe.needs_pretrained_student
    pairs = zip(recipe.stages, load_recipe(recipe.baseline).stages, strict=True)
    for mine, other in pairs:
        assert mine.model_dump(exclude={"terms", "source"}) == other.model_dump(exclude={"terms", "source"})
    for name in ("kd", "mas", "sskd"):
        assert load_recipe(name).baseline == "plain" and not load_recipe(name).needs_pretrained_student


def test_the_warm_up_changes_the_head_and_no_weight_or_statistic_below_it(run, pretrained):
    recipe = load_recipe("tl-kd")
    warmed = run(recipe.model_copy(update={"stages": recipe.stages[:1]})).student.state_dict()
    assert _same(warmed, pretrained) == set(pretrained) - HEAD


def test_the_head_learns_ten_times_as_fast_as_the_layers_below(student, teacher, pretrained):
    session = open_session(load_recipe("tl-kd"), student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0)
    stage = build_stage(load_recipe("tl-kd").stages[1], session)
    names = {id(parameter): name for name, parameter in session.net("student").backbone.named_parameters()}
    rates = {names[id(parameter)]: group.lr for group in stage.groups for parameter in group.parameters}
    assert {name for name, rate in rates.items() if rate == pytest.approx(1.0)} == HEAD
    assert {name for name, rate in rates.items() if rate == pytest.approx(0.1)} == set(names.values()) - HEAD


def test_a_student_without_weights_is_refused_before_training(run, student, teacher, dataset):
    for name in ("tl", "tl-kd"):
        recipe = load_recipe(name)
        with pytest.raises(ConfigError, match=r"fine-tunes a student.*--set student.weights=FILE"):
            check_recipe(recipe, student=student, teacher=teacher, dataset=dataset, batch_size=32)
        with pytest.raises(ConfigError, match="fine-tunes a student"):
            run(recipe, start={})


def test_check_recipe_rehearses_from_the_given_weights(student, teacher, dataset, pretrained):
    recipe = load_recipe("tl-kd")
    check_recipe(recipe, student=student, teacher=teacher, dataset=dataset, batch_size=32, start=pretrained)
    poisoned = {**pretrained, "net.linear.bias": torch.full((4,), torch.nan)}
    with pytest.raises(ConfigError, match="not finite"):
        check_recipe(recipe, student=student, teacher=teacher, dataset=dataset, batch_size=32, start=poisoned)


def test_a_wrapper_hands_on_what_its_base_needs():
    wrapper = load_recipe("sftn")
    composed = compose(wrapper, load_recipe("tl-kd"))
    assert composed.needs_pretrained_student and composed.baseline == "tl"


def test_the_classifier_is_what_comes_after_the_penultimate_feature(student, dataset):
    assert classifier_of(student, build(student), dataset) == ("net.linear",)


def test_a_stage_that_starts_fresh_goes_back_to_the_given_weights(run, pretrained):
    terms, tiny = [{"type": "cross-entropy"}], {"source": {"type": "self"}, "keep": "last"}
    stages = [
        {"name": "one", "terms": terms, **tiny},
        {"name": "two", "start": "fresh", "train": ["head"], "lr": 1e-12, "terms": terms, **tiny},
    ]
    state = run(Recipe(name="t", title="t", stages=stages), start=pretrained, with_teacher=False).student.state_dict()
    assert set(pretrained) - HEAD <= _same(state, pretrained)
