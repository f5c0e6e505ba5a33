"""A recipe put into the words of a task.

Recipes are written for classes. `cross-entropy` is the negative log-likelihood of the label under what a network says,
`kd` the divergence between what two networks say; where networks give Gaussians of real values, these two are
`gaussian-nll` and `gaussian-kl`. Weights stay; a temperature has no meaning there and is left out. Every other term is
taken as it is, and refuses a task that it does not fit.
"""

from __future__ import annotations

from typing import TypeVar

from edgekd.data import Task
from edgekd.distill.recipe import Recipe
from edgekd.distill.specs import LearnerSpec, StageSpec, TermSpec

L = TypeVar("L", bound=LearnerSpec)


def recipe_for(recipe: Recipe, task: Task) -> Recipe:
    """Return a recipe with the terms that a task needs; the same recipe where labels are classes."""
    if task.kind != "regression":
        return recipe
    return recipe.model_copy(update={"stages": tuple(_stage(stage) for stage in recipe.stages)})


def _stage(stage: StageSpec) -> StageSpec:
    beside = tuple(_learner(learner) for learner in stage.beside)
    return _learner(stage).model_copy(update={"beside": beside})


def _learner(learner: L) -> L:
    return learner.model_copy(update={"terms": tuple(_term(term) for term in learner.terms)})


def _term(term: TermSpec) -> TermSpec:
    if term.type == "cross-entropy":
        return _renamed(term, "gaussian-nll")
    reads = (term.options.get("part", "logits"), term.options.get("target", "logits"))
    if term.type == "kd" and all(_is_output(name) for name in reads):
        return _renamed(term, "gaussian-kl")
    return term


def _is_output(name: str) -> bool:
    return name == "logits" or name.endswith(".logits")


def _renamed(term: TermSpec, kind: str) -> TermSpec:
    options = {name: value for name, value in term.options.items() if name != "temperature"}
    return TermSpec(type=kind, weight=term.weight, of=term.of, **options)
