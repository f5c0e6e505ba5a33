"""What a recipe asks for, read off its parts: a teacher, labels, other networks to train, square pictures.

A registered part whose class says `requires = ("labels",)` or so adds that to every recipe that uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekd.core.registry import Registry
from edgekd.distill.attachments import ATTACHMENTS
from edgekd.distill.policies import POLICIES
from edgekd.distill.recipe import Recipe
from edgekd.distill.sources import SOURCES
from edgekd.distill.specs import WeigherSpec
from edgekd.distill.terms import TERMS
from edgekd.distill.views import VIEWS
from edgekd.distill.weighers import WEIGHERS


def requirements_of(recipe: Recipe) -> tuple[str, ...]:
    """Return what a recipe asks for, in words.

    Args:
        recipe: The method.

    Returns:
        `"a teacher"`, `"a pre-trained student"`, then what its parts require, then which networks besides the
        student it trains.
    """
    teacher = ("a teacher",) if recipe.needs_teacher else ()
    student = ("a pre-trained student",) if recipe.needs_pretrained_student else ()
    others = [role for role in trained_roles(recipe) if role != "student"]
    training = (f"training of {', '.join(others)}",) if others else ()
    return (*teacher, *student, *sorted(set(_of_parts(recipe))), *training)


def trained_roles(recipe: Recipe) -> tuple[str, ...]:
    """Return the roles whose backbone or head a recipe trains, in order."""
    learners = [learner for stage in recipe.stages for learner in stage.learners]
    return tuple(dict.fromkeys(one.learner for one in learners if {"backbone", "head"} & {*one.train}))


def _of_parts(recipe: Recipe) -> Iterator[str]:
    for registry, kind in parts_of(recipe):
        yield from getattr(registry[kind], "requires", ())


def label_readers(recipe: Recipe, *, but: str = "") -> Iterator[str]:
    """Yield, in words, each part that requires labels.

    Args:
        recipe: The method.
        but: Leave out parts that have this attribute set.
    """
    for registry, kind in parts_of(recipe):
        part = registry[kind]
        if "labels" in getattr(part, "requires", ()) and not (but and getattr(part, but, False)):
            yield f"{registry.kind} {kind!r}"


def parts_of(recipe: Recipe) -> Iterator[tuple[Registry[Any], str]]:
    """Yield the registry and the name of each registered part that a recipe is made of."""
    for attachments in recipe.attach.values():
        yield from ((ATTACHMENTS, attachment.type) for attachment in attachments.values())
    yield from ((POLICIES, policy.type) for policy in recipe.policies.values())
    for stage in recipe.stages:
        for learner in stage.learners:
            yield from ((SOURCES, source.type) for source in learner.source)
            for term in learner.terms:
                yield TERMS, term.type
                if isinstance(term.weight, WeigherSpec):
                    yield WEIGHERS, term.weight.type
        yield from ((VIEWS, view.type) for view in stage.views)
