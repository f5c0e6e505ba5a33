"""What docs/text.md says of methods is what they do on networks of texts."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Dataset, Split, Task
from edgekd.data.text import TokenRows, WordPiece
from edgekd.data.text.wordpiece import SPECIAL_TOKENS
from edgekd.distill import RunOptions, TrainSettings, check_recipe, load_recipe, recipe_names, run_recipe
from edgekd.models import build, spec_for

pytest.importorskip("transformers", reason="extra 'text' is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "text.md").read_text()
TASK = Task("classification", ("a", "b", "c"))


def _split(count, seed):
    rng = np.random.default_rng(seed)
    tokens = np.where(np.arange(6) < rng.integers(3, 7, (count, 1)), rng.integers(4, 12, (count, 6)), 0)
    return Split(TokenRows(tokens, "test"), np.arange(count) % 3, TASK)


@pytest.fixture(scope="module")
def dataset():
    tokenizer = WordPiece((*SPECIAL_TOKENS, *"abcdefgh"), 6)
    parts = {
        name: _split(count, seed) for seed, (name, count) in enumerate({"train": 64, "val": 24, "test": 24}.items())
    }
    return Dataset("words", **parts, mean=(), std=(), digest="words", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def networks(dataset):
    def spec(depth):
        facts = {"in_channels": 0, "mean": (), "std": (), "vocabulary": dataset.vocabulary}
        return spec_for("bert", depth=depth, width=32, num_classes=3, resolution=6, **facts)

    torch.manual_seed(0)
    return spec(2), (spec(4), build(spec(4)))


def _check(recipe, dataset, networks):
    student, teacher = networks
    check_recipe(recipe, student=student, teacher=teacher, dataset=dataset, batch_size=16)


def _named(start, end):
    return re.findall(r"`([a-z-]+)`", PAGE[PAGE.index(start) : PAGE.index(end)])


@pytest.mark.parametrize("method", [*_named("Methods on logits", "`gkd`"), "gkd", "gkd-cls"])
def test_methods_named_as_working_fit(method, dataset, networks):
    _check(load_recipe(method), dataset, networks)


@pytest.mark.parametrize("method", recipe_names())
def test_every_other_method_fits_or_is_refused_with_its_reason(method, dataset, networks):
    try:
        _check(load_recipe(method), dataset, networks)
    except ConfigError as error:
        reasons = ("feature map", r"\[B, C, H, W\]", "square pictures", "does not fit this task")
        reasons += ("only pictures can be mixed", "at least two modalities", "trained before")
        assert re.search("|".join(reasons), str(error)), error


def test_the_recipe_on_the_page_trains_a_student(dataset, networks, tmp_path):
    (tmp_path / "patient-kd.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0])
    student, teacher = networks
    outcome = run_recipe(
        load_recipe(str(tmp_path / "patient-kd.yaml")),
        student=student,
        teacher=teacher,
        dataset=dataset,
        settings=TrainSettings(epochs=6, batch_size=16, lr=3e-3, optimizer="adamw", device="cpu", augment="none"),
        options=RunOptions(),
    )
    hints = [epoch.terms["cls-hint"] for epoch in outcome.history]
    assert hints[-1] < 0.5 * hints[0]


def test_gkd_cls_brings_states_and_gradients_together(dataset, networks):
    student, teacher = networks
    outcome = run_recipe(
        load_recipe("gkd-cls"),
        student=student,
        teacher=teacher,
        dataset=dataset,
        settings=TrainSettings(epochs=6, batch_size=16, lr=3e-3, optimizer="adamw", device="cpu", augment="none"),
        options=RunOptions(),
    )
    first, last = outcome.history[0].terms, outcome.history[-1].terms
    assert last["cls-hint"] < first["cls-hint"] and last["gradient-match"] < 0.5 * first["gradient-match"]


def test_knowledge_selection_runs_on_states_of_tokens(dataset, networks, tmp_path):
    (tmp_path / "selection.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[1])
    recipe = load_recipe(str(tmp_path / "selection.yaml"))
    _check(recipe, dataset, networks)
    student, teacher = networks
    outcome = run_recipe(
        recipe,
        student=student,
        teacher=teacher,
        dataset=dataset,
        settings=TrainSettings(epochs=3, batch_size=16, lr=3e-3, optimizer="adamw", device="cpu", augment="none"),
        options=RunOptions(),
    )
    weights = [epoch.terms["hidden-relation weight"] for epoch in outcome.history]
    assert len(weights) == 12
    assert len(set(weights[:9])) > 3
    assert all(weight > 0 for weight in weights[9:])
