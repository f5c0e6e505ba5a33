"""Recipes: distillation methods written as a list of stages in YAML.

A recipe names terms, sources, weighers, views and attachments of the registries; it holds no code.
`mag+sp` composes the wrapper recipe `mag` with the base recipe `sp`; `sftn+mag+sp` wraps that again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from edgekd.core.config import StrictModel, read_yaml, validated
from edgekd.core.digest import sha256_of_file, sha256_of_json
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.core.python_file import import_file
from edgekd.core.registry import Registry
from edgekd.distill.attachments import ATTACHMENTS
from edgekd.distill.options import checked_options
from edgekd.distill.policies import POLICIES
from edgekd.distill.sources import OWN, SOURCES, default_roles
from edgekd.distill.specs import (
    ActionSpec,
    AttachmentSpec,
    LearnerSpec,
    PolicySpec,
    RoleSpec,
    StageSpec,
    TermSpec,
    WeigherSpec,
    WithOptions,
)
from edgekd.distill.terms import TERMS
from edgekd.distill.views import VIEWS
from edgekd.distill.weighers import WEIGHERS

T = TypeVar("T")
_TAKEN_ROLES = ("student", "teacher", OWN)


class Recipe(StrictModel):
    """A distillation method."""

    schema_version: Literal[1] = 1
    name: str
    title: str
    paper: str = ""
    formula: str = ""
    deviations: str = Field("", description="Where this differs from the paper, or is a reconstruction.")
    cost: str = Field("", description="What a step costs beside one forward and backward of the student.")
    roles: Mapping[str, RoleSpec] = Field({}, description="Networks besides student and teacher.")
    attach: Mapping[str, Mapping[str, AttachmentSpec]] = {}
    policies: Mapping[str, PolicySpec] = {}
    python: tuple[str, ...] = Field((), description="Python files beside this one that register terms; they are run.")
    python_sha256: tuple[str, ...] = Field((), description="Their digests, filled in when the recipe is loaded.")
    stages: tuple[StageSpec, ...] = Field(..., min_length=1)
    base_weights: Mapping[str, float] | None = Field(
        None, description="Weights by term type that apply once a base recipe is added; null when it adds none."
    )
    needs_pretrained_student: bool = Field(False, description="Whether its student must have been trained before.")
    baseline: str = Field("plain", description="Recipe of the students that are trained without the teacher.")
    prepares_teacher: bool = Field(
        False, description="Whether a base recipe may take the place of the last stage, those before it being for any."
    )

    @property
    def takes_base(self) -> bool:
        """Whether it wraps other recipes."""
        return self.prepares_teacher or self.base_weights is not None

    @property
    def needs_teacher(self) -> bool:
        """Whether any part of it reads, trains or is shaped by a teacher."""
        if any(role.like == "teacher" or role.between is not None for role in self.roles.values()):
            return True
        return "teacher" in self.attach or "teacher" in _all_roles(self)

    @property
    def digest(self) -> str:
        """Content digest."""
        return sha256_of_json(self.model_dump(mode="json"))


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with edgekd."""
    folder = resources.files("edgekd.distill") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_recipe(name: str) -> Recipe:
    """Load a recipe by name, `wrapper+base` (the base may be one such itself), or path of a YAML file.

    Raises:
        ConfigError: No such recipe, a file with problems (all listed), or a composition that makes no sense.
    """
    if name.endswith((".yaml", ".yml")):
        return _from_file(Path(name))
    wrapper_name, plus, base_name = name.partition("+")
    wrapper = _built_in(wrapper_name)
    return compose(wrapper, load_recipe(base_name)) if plus else wrapper


def _from_file(path: Path) -> Recipe:
    recipe = validated(Recipe, read_yaml(path), str(path))
    files = [path.parent / file for file in recipe.python]
    for file in files:
        import_file(file, "Python file of the recipe")
    return _with_known_names(recipe.model_copy(update={"python_sha256": tuple(map(sha256_of_file, files))}))


def compose(wrapper: Recipe, base: Recipe) -> Recipe:
    """Wrap a recipe around a base recipe.

    Args:
        wrapper: A recipe that either `prepares_teacher`, and then the base takes the place of its last stage, or has
            `base_weights`, and then gets the base's preparation stages and feature terms.
        base: A recipe whose last stage trains a student; where terms are added, those of kinds the wrapper has give way
            to the wrapper's, and it must be these terms alone that make the stage the base's.

    Returns:
        The recipe `wrapper+base`.

    Raises:
        ConfigError: The wrapper takes no base, makes no difference with this one or cannot hold it, or both use one
            name differently.
    """
    if not wrapper.takes_base:
        raise ConfigError(f"recipe {wrapper.name!r} takes no base recipe")
    stages = _prepared(wrapper, base) if wrapper.prepares_teacher else _added(wrapper, base)
    return wrapper.model_copy(
        update={
            "name": f"{wrapper.name}+{base.name}",
            "title": f"{wrapper.title}, over {base.title}",
            "paper": "; ".join(filter(None, [wrapper.paper, base.paper])),
            "formula": _formula(wrapper, base),
            "deviations": " ".join(f"{one.name}: {one.deviations}" for one in (wrapper, base) if one.deviations),
            "cost": f"{wrapper.cost}; as {base.name} beside: {base.cost}; the teacher runs once",
            "stages": stages,
            "needs_pretrained_student": wrapper.needs_pretrained_student or base.needs_pretrained_student,
            "baseline": base.baseline,
            "roles": _merged("role", base.roles, wrapper.roles),
            "policies": _merged("policy", base.policies, wrapper.policies),
            "attach": {
                role: _merged("attachment", base.attach.get(role, {}), wrapper.attach.get(role, {}))
                for role in dict.fromkeys([*base.attach, *wrapper.attach])
            },
        }
    )


def _merged(kind: str, base: Mapping[str, T], wrapper: Mapping[str, T]) -> dict[str, T]:
    for name in base:
        if name in wrapper and base[name] != wrapper[name]:
            raise ConfigError(f"both recipes name {kind} {name!r} and mean different things by it")
    return {**base, **wrapper}


def _prepared(wrapper: Recipe, base: Recipe) -> tuple[StageSpec, ...]:
    learners = [learner for stage in base.stages for learner in stage.learners]
    if any(learner.learner == "teacher" and learner.start == "fresh" for learner in learners):
        raise ConfigError(f"recipe {base.name!r} trains its teacher anew, so what {wrapper.name!r} prepares is lost")
    if not any("teacher" in _roles_of(learner) for learner in learners):
        raise ConfigError(f"recipe {base.name!r} reads no teacher, so {wrapper.name!r} prepares nothing for it")
    return (*wrapper.stages[:-1], *base.stages)


def _added(wrapper: Recipe, base: Recipe) -> tuple[StageSpec, ...]:
    own_types = {term.type for term in wrapper.stages[-1].terms}
    added = tuple(term for term in base.stages[-1].terms if term.type not in own_types)
    if not added:
        raise ConfigError(f"recipe {base.name!r} adds no term to {wrapper.name!r}")
    last = wrapper.stages[-1]
    if lost := _keys_lost(base.stages[-1], last):
        raise ConfigError(
            f"recipe {base.name!r} is more than its terms: its last stage has {', '.join(lost)} of its own, which "
            f"{wrapper.name!r}, adding terms alone, would leave out"
        )
    kept = tuple(_reweighted(term, wrapper.base_weights or {}) for term in last.terms)
    return (*base.stages[:-1], *wrapper.stages[:-1], last.model_copy(update={"terms": (*kept, *added)}))


def _keys_lost(theirs: StageSpec, own: StageSpec) -> list[str]:
    """Return what a base's stage says beside its terms and does not share with the stage that takes them over."""
    keys = {key: field.get_default() for key, field in StageSpec.model_fields.items() if key not in ("name", "terms")}
    return [key for key, default in keys.items() if getattr(theirs, key) not in (default, getattr(own, key))]


def _formula(wrapper: Recipe, base: Recipe) -> str:
    if wrapper.prepares_teacher:
        return f"{wrapper.formula}; here {base.name}: {base.formula}"
    weights = ", ".join(f"{kind} {weight:g}" for kind, weight in (wrapper.base_weights or {}).items())
    own_types = {term.type for term in wrapper.stages[-1].terms}
    added = dict.fromkeys(term.type for term in base.stages[-1].terms if term.type not in own_types)
    return (
        f"{wrapper.formula}, with weights on logits {weights}; plus {', '.join(added)} of {base.name}: {base.formula}"
    )


def _reweighted(term: TermSpec, weights: Mapping[str, float]) -> TermSpec:
    is_on_logits = term.options.get("part", "logits") == "logits"
    return term.model_copy(update={"weight": weights[term.type]}) if is_on_logits and term.type in weights else term


def _built_in(name: str) -> Recipe:
    if name not in recipe_names():
        raise unknown_name("method", name, recipe_names())
    path = Path(str(resources.files("edgekd.distill") / "recipes" / f"{name}.yaml"))
    return _with_known_names(validated(Recipe, read_yaml(path), name))


def _with_known_names(recipe: Recipe) -> Recipe:
    problems = [str(problem) for check in _checks(recipe) if (problem := _problem_of(check)) is not None]
    if problems:
        raise ConfigError(f"recipe {recipe.name!r}: {len(problems)} problem(s)\n" + "\n".join(problems))
    return recipe


def _checks(recipe: Recipe) -> Iterator[Callable[[], object]]:
    for attachments in recipe.attach.values():
        yield from (partial(_checked, ATTACHMENTS, spec) for spec in attachments.values())
    yield from (partial(_checked, POLICIES, policy) for policy in recipe.policies.values())
    yield from (partial(_free, role) for role in recipe.roles)
    for role in dict.fromkeys([*recipe.attach, *_all_roles(recipe)]):
        yield partial(_known, "role", role, ("student", "teacher", *recipe.roles))
    for stage in recipe.stages:
        yield from (partial(_checked, VIEWS, view) for view in stage.views)
        yield from (partial(_known, "policy", name, recipe.policies) for name in stage.learns)
        for learner in stage.learners:
            yield from (partial(_checked, SOURCES, source) for source in learner.source)
            for term in learner.terms:
                yield partial(_checked, TERMS, term)
                if isinstance(term.weight, WeigherSpec):
                    yield partial(_checked, WEIGHERS, term.weight)
                if isinstance(term.weight, ActionSpec):
                    yield partial(_known, "policy", term.weight.policy, recipe.policies)


def _all_roles(recipe: Recipe) -> Iterator[str]:
    return (role for stage in recipe.stages for learner in stage.learners for role in _roles_of(learner))


def _roles_of(learner: LearnerSpec) -> Iterator[str]:
    yield learner.learner
    for source in learner.source:
        if source.type in SOURCES:
            yield from source.options.get("roles", default_roles(source.type))


def _known(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise unknown_name(kind, name, known)


def _free(role: str) -> None:
    if role in _TAKEN_ROLES:
        raise ConfigError(f"role {role!r}: {', '.join(_TAKEN_ROLES)} have their meaning already; take another name")


def _checked(registry: Registry[Any], spec: WithOptions) -> object:
    return checked_options(f"{registry.kind} {spec.type!r}", registry[spec.type], spec.options)


def _problem_of(check: Callable[[], object]) -> ConfigError | None:
    try:
        check()
    except ConfigError as problem:
        return problem
    return None
