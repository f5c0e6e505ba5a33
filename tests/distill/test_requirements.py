"""What recipes say they need is what they read: checked by other labels, oblong pictures, absent teachers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Split, eval_batches
from edgekd.distill import load_recipe, recipe_names
from edgekd.distill.preparation import prepare
from edgekd.distill.recipe import Recipe
from edgekd.distill.rehearsal import scheduled
from edgekd.distill.requirements import requirements_of, trained_roles
from edgekd.distill.roles import open_session
from edgekd.distill.stage import build_stage
from edgekd.distill.terms import Step
from edgekd.distill.views import VIEWS

NO_PICTURES = {"two modalities", "texts"}
ON_PICTURES = [name for name in recipe_names() if not NO_PICTURES & {*requirements_of(load_recipe(name))}]


@pytest.fixture
def stages(dataset, student, teacher):
    """Build a recipe's stages one after the other."""

    def go(recipe, dataset=dataset):
        with torch.random.fork_rng(devices=[]):
            session = open_session(
                recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0, kind="classification"
            )
            for spec in scheduled(recipe):
                stage = build_stage(spec, session)
                prepare(stage, session, dataset.train, torch.device("cpu"))
                yield stage
                if spec.record:
                    session.record(spec.learner, 1.0)

    return go


def _values(stages, dataset):
    """Return each term's value and class, stage by stage, on some rows and with networks as they were made."""
    found = []
    for stage in stages:
        seen, step = next(eval_batches(dataset.train, batch_size=8)), Step(0, 1, 0)
        for view in stage.views:
            seen = view(seen, step)
        torch.manual_seed(0)
        live = {learner.role: learner.net(seen.inputs) for learner in stage.learners}
        for learner in stage.learners:
            by_term = learner.losses(seen, step, live).by_term
            found += [(by_term[name].item(), type(term)) for name, _, term in learner.named_terms()]
    return found


@pytest.mark.parametrize("name", ON_PICTURES)
def test_a_term_whose_value_follows_the_labels_says_that_it_requires_them(name, stages, dataset):
    recipe, train = load_recipe(name), dataset.train
    shuffled = np.random.default_rng(0).permutation(train.labels)
    other = replace(dataset, train=Split(train.inputs, shuffled, train.task))
    values, others = (_values(stages(recipe, each), each) for each in (dataset, other))
    for (value, term), (other, _) in zip(values, others, strict=True):
        if value != other:
            assert "labels" in getattr(term, "requires", ()), term
            assert "labels" in requirements_of(recipe)


@pytest.mark.parametrize("name", ON_PICTURES)
def test_a_recipe_needs_a_teacher_exactly_if_it_reads_or_trains_one_or_has_one_like_it(name, stages, run):
    recipe = load_recipe(name)
    if "a teacher" not in requirements_of(recipe):
        run(name, with_teacher=False)
        return
    shaped = {role for role, spec in recipe.roles.items() if spec.like != "student"}
    used = set(shaped)
    for stage in stages(recipe):
        for learner in stage.learners:
            used |= {learner.role, *learner.target_nets()}
    assert used & {"teacher", *shaped}


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_a_view_that_cannot_take_oblong_pictures_says_so(view, dataset):
    batch = next(eval_batches(dataset.train, batch_size=4))
    oblong = replace(batch, inputs=batch.inputs[:, :, :, :6])
    try:
        VIEWS[view]()(oblong, Step(0, 1, 0))
        is_square_only = False
    except ConfigError:
        is_square_only = True
    assert ("square pictures" in getattr(VIEWS[view], "requires", ())) == is_square_only


def test_needs_name_the_networks_that_train_besides_the_student():
    assert requirements_of(load_recipe("plain")) == ("labels",)
    assert requirements_of(load_recipe("kd")) == ("a teacher", "labels")
    assert requirements_of(load_recipe("takd")) == ("a teacher", "labels", "training of assistant1, assistant2")
    assert "square pictures" in requirements_of(load_recipe("sskd"))
    assert trained_roles(load_recipe("mag")) == ("student",)
    assert trained_roles(load_recipe("rl-kd")) == ("second", "middle", "student")


def test_needs_are_found_wherever_a_part_stands():
    beside = {
        "learner": "peer",
        "source": {"type": "self"},
        "terms": [{"type": "dkd"}],
    }
    stage = {"name": "s", "source": {"type": "self"}, "beside": [beside], "terms": [{"type": "kd"}]}
    recipe = Recipe(name="a", title="a", roles={"peer": {"like": "student"}}, stages=[stage])
    assert requirements_of(recipe) == ("labels", "training of peer")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_a_step_costs(name):
    cost = load_recipe(name).cost
    assert 0 < len(cost) < 160 and not cost.endswith(".")


def test_a_composition_costs_what_both_cost():
    assert load_recipe("mas").cost in load_recipe("mas+sp").cost
    assert load_recipe("sp").cost in load_recipe("mas+sp").cost


def test_a_teacher_that_only_has_attachments_is_needed():
    stage = {"name": "s", "source": {"type": "self"}, "terms": [{"type": "cross-entropy"}]}
    recipe = Recipe(name="a", title="a", attach={"teacher": {"b": {"type": "penultimate"}}}, stages=[stage])
    assert requirements_of(recipe) == ("a teacher", "labels")


def test_what_the_task_or_the_user_must_bring_is_said():
    assert "two modalities" in requirements_of(load_recipe("modality-gram"))
    needing = {name for name in recipe_names() if "a pre-trained student" in requirements_of(load_recipe(name))}
    assert needing == {"tl", "tl-kd"}
    assert "texts" in requirements_of(load_recipe("gkd-cls"))
    assert set(recipe_names()) - set(ON_PICTURES) == {"modality-gram", "gkd-cls"}
