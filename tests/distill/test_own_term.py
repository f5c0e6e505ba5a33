"""The examples of docs/methods.md, run as they stand there, and its lists held against the registries."""

import re
from pathlib import Path

import pytest

from edgekd.core.errors import ConfigError
from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.schemas import PARTS
from edgekd.distill.specs import LearnerSpec, StageSpec

DOCS = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def _block(section, language):
    text = DOCS[DOCS.index(f"## {section}") :]
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


PYTHON, YAML = (_block("A term of your own", language) for language in ("python", "yaml"))


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "mine.py").write_text(PYTHON)
    (tmp_path / "mine.yaml").write_text(YAML)
    return tmp_path / "mine.yaml"


def test_the_documented_term_trains_and_does_what_it_says(recipe, run):
    loaded = load_recipe(str(recipe))
    outcome = run(loaded)
    record = outcome.history[0]
    assert record.loss == pytest.approx(record.terms["cross-entropy"] + 0.5 * record.terms["logit-mse"], rel=1e-5)
    assert load_recipe(str(recipe)) == loaded


def test_the_digest_follows_the_code(recipe, tmp_path):
    before = load_recipe(str(recipe)).digest
    (tmp_path / "mine.py").write_text(PYTHON.replace("logit-mse", "logit-mse-2"))
    recipe.write_text(YAML.replace("logit-mse", "logit-mse-2"))
    assert load_recipe(str(recipe)).digest != before


def test_wrong_options_of_an_own_term_are_reported(recipe):
    recipe.write_text(YAML.replace("scale: 2.0", "scal: 2.0"))
    with pytest.raises(ConfigError, match="scal: unknown key"):
        load_recipe(str(recipe))


@pytest.mark.parametrize("code, fragment", [("1/0", "ZeroDivisionError"), (None, "no such file")])
def test_a_python_file_that_fails_is_one_clear_error(recipe, tmp_path, code, fragment):
    (tmp_path / "mine.py").unlink()
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=rf"Python file of the recipe .*mine\.py.*{fragment}"):
        load_recipe(str(recipe))


def test_built_in_recipes_run_no_users_code():
    assert Recipe.model_fields["python"].default == ()


def test_the_documented_recipe_trains_both_students_on_what_it_says(run, tmp_path):
    text = _block("A recipe of your own", "yaml")
    assert len(text.splitlines()) <= 10
    (tmp_path / "peers.yaml").write_text(text)
    outcome = run(load_recipe(str(tmp_path / "peers.yaml")))
    first, last = outcome.history[0].terms, outcome.history[-1]
    assert {"cross-entropy", "kd teacher", "kd peer", "peer cross-entropy", "peer kd"} <= set(first)
    own = last.terms["cross-entropy"] + last.terms["kd teacher"] + last.terms["kd peer"]
    peers = last.terms["peer cross-entropy"] + 0.5 * last.terms["peer kd"]
    assert last.loss == pytest.approx(own + peers, rel=1e-5)


@pytest.mark.parametrize("kind", sorted(set(PARTS) - {"terms"}))
def test_every_part_stands_in_the_guide(kind):
    assert [name for name in PARTS[kind] if not re.search(rf"`{name}`|type: {name}\b", DOCS)] == []


def test_every_key_of_a_recipe_and_a_stage_stands_in_the_guide():
    keys = {*Recipe.model_fields, *StageSpec.model_fields, *LearnerSpec.model_fields}
    assert {key for key in keys if f"`{key}`" not in DOCS} <= {"schema_version", "python_sha256"}
