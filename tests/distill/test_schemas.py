"""The published schemas agree with what is accepted."""

import jsonschema
import pytest

from edgekd.core.errors import ConfigError
from edgekd.distill import load_recipe, recipe_names
from edgekd.distill.schemas import PARTS, part_schema, recipe_schemas


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_and_the_options_of_its_parts_fit_their_schemas(name):
    recipe = load_recipe(name)
    jsonschema.validate(recipe.model_dump(mode="json", exclude_defaults=True), recipe_schemas("recipe")["recipe"])
    used = [("attachments", one) for each in recipe.attach.values() for one in each.values()]
    used += [("policies", one) for one in recipe.policies.values()]
    for stage in recipe.stages:
        used += [("views", view) for view in stage.views]
        for learner in stage.learners:
            used += [("sources", source) for source in learner.source]
            used += [("terms", term) for term in learner.terms]
            used += [("weighers", term.weight) for term in learner.terms if hasattr(term.weight, "type")]
    for kind, spec in used:
        jsonschema.validate(spec.options, part_schema(PARTS[kind], spec.type))


@pytest.mark.parametrize("kind", sorted(PARTS))
def test_every_part_has_a_schema_that_refuses_unknown_options(kind):
    for name in PARTS[kind]:
        schema = recipe_schemas(name)[kind][name]
        jsonschema.Draft202012Validator.check_schema(schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"no-such-option": 1}, schema)


def test_one_name_is_looked_up_in_every_kind():
    assert set(recipe_schemas("kd")) == {"terms"}
    assert set(recipe_schemas("teacher-selection")) == {"policies"}
    assert set(recipe_schemas()) == {"recipe", *PARTS}
    with pytest.raises(ConfigError, match="unknown part of a recipe 'balance'; did you mean balanced"):
        recipe_schemas("balance")


def test_nested_options_are_described():
    schema = recipe_schemas("knowledge-selection")["policies"]["knowledge-selection"]
    jsonschema.validate({"learning": {"discount": 0.5}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"learning": {"discont": 0.5}}, schema)
