"""JSON schemas of what a recipe may say: of the recipe itself, and of the options of every registered part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.core.errors import unknown_name
from edgekd.core.registry import Registry
from edgekd.distill.attachments import ATTACHMENTS
from edgekd.distill.options import options_model
from edgekd.distill.policies import POLICIES
from edgekd.distill.recipe import Recipe
from edgekd.distill.sources import SOURCES
from edgekd.distill.terms import TERMS
from edgekd.distill.views import VIEWS
from edgekd.distill.weighers import WEIGHERS

RECIPE = "recipe"
PARTS: Mapping[str, Registry[Any]] = {
    "attachments": ATTACHMENTS,
    "policies": POLICIES,
    "sources": SOURCES,
    "terms": TERMS,
    "views": VIEWS,
    "weighers": WEIGHERS,
}


def recipe_schemas(name: str | None = None) -> dict[str, Any]:
    """Return the schema of recipes, and by kind and name those of the options of its parts.

    Args:
        name: `"recipe"`, or the name of parts of whatever kind; everything by default.

    Raises:
        ConfigError: Nothing has that name.
    """
    found: dict[str, Any] = {RECIPE: Recipe.model_json_schema()} if name in (None, RECIPE) else {}
    for kind, registry in PARTS.items():
        schemas = {part: part_schema(registry, part) for part in registry if name in (None, part)}
        if schemas:
            found[kind] = schemas
    if not found:
        raise unknown_name(
            "part of a recipe", str(name), {RECIPE, *(part for parts in PARTS.values() for part in parts)}
        )
    return found


def part_schema(registry: Registry[Any], name: str) -> dict[str, Any]:
    """Return the JSON schema of a registered part's options."""
    return options_model(f"{name} options", registry[name]).model_json_schema()
