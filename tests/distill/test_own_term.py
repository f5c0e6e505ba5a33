"""The example of docs/methods.md, run as it stands there."""

import re
from pathlib import Path

import pytest

from edgekd.core.errors import ConfigError
from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe

DOCS = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
PYTHON, YAML = (re.search(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)[1] for language in ("python", "yaml"))


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
