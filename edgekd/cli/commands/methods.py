"""`edgekd methods`: the distillation recipes, and what each is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.distill.evidence import Evidence

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Distillation methods.")


def list_methods() -> Outcome:
    """List every recipe: what it needs, and what a step costs beside one forward and backward of the student.

    Example:
      edgekd methods list
    """
    from edgekd.distill import load_recipe, recipe_names
    from edgekd.distill.requirements import requirements_of

    recipes = [load_recipe(name) for name in recipe_names()]
    listed = [
        {
            "name": recipe.name,
            "title": recipe.title,
            "paper": recipe.paper,
            "needs": list(requirements_of(recipe)),
            "cost": recipe.cost,
            "takes_a_base": recipe.takes_base,
        }
        for recipe in recipes
    ]
    rows = [(r.name, ", ".join(requirements_of(r)) or "-", r.cost or "-", r.title, r.paper or "-") for r in recipes]
    table = format_table(("method", "needs", "cost of a step", "title", "paper"), rows)
    note = f"{', '.join(r.name for r in recipes if r.takes_base)} also wrap another method: --method mas+sp"
    return Outcome({"methods": listed}, f"{table}\n\n{note}")


def show_method(name: Annotated[str, typer.Argument(help="A recipe, wrapper+base, or a YAML file.")]) -> Outcome:
    """Show a recipe: its formula, where it differs from the paper, what it needs, what it came to, and its YAML.

    Example:
      edgekd methods show mas+sp
    """
    import yaml

    from edgekd.distill import load_recipe
    from edgekd.distill.evidence import evidence_of
    from edgekd.distill.requirements import requirements_of

    recipe = load_recipe(name)
    document = recipe.model_dump(mode="json", exclude_defaults=True)
    needs, evidence = requirements_of(recipe), evidence_of(name)
    facts = {
        "title": recipe.title,
        "paper": recipe.paper,
        "formula": recipe.formula,
        "deviations": recipe.deviations,
        "needs": ", ".join(needs) or "nothing",
        "cost of a step": recipe.cost,
        "evidence": "; ".join(map(_in_words, evidence)) or "none in any study of edgekd",
    }
    text = "\n".join(f"{fact}: {value}" for fact, value in facts.items() if value)
    result = {"method": document, "needs": list(needs), "evidence": [dataclasses.asdict(one) for one in evidence]}
    return Outcome(result, f"{text}\n\n{yaml.safe_dump(document, sort_keys=False)}")


def show_schema(
    name: Annotated[str | None, typer.Argument(help="`recipe`, or one part's name; everything by default.")] = None,
) -> Outcome:
    """Show what a recipe may say: its keys, and every term, source, weigher, view, attachment and policy with options.

    Example:
      edgekd methods schema kd
    """
    from edgekd.distill.schemas import RECIPE, recipe_schemas

    schemas = recipe_schemas(name)
    by_kind = {kind: {"-": found} if kind == RECIPE else found for kind, found in schemas.items()}
    rows = [
        (kind, part, *cells)
        for kind, parts in by_kind.items()
        for part, document in parts.items()
        for cells in _options(document)
    ]
    return Outcome(schemas, format_table(("kind", "name", "option", "type", "default"), rows))


def _in_words(one: Evidence) -> str:
    spread = "" if one.top1_std is None else f" ± {one.top1_std:.2f}"
    seeds = f"{one.seeds} seed{'' if one.seeds == 1 else 's'}"
    margin = "" if one.over_plain_margin is None else f" ± {one.over_plain_margin:.2f}"
    over = "" if one.over_plain is None else f", {one.over_plain:+.2f}{margin} points over plain"
    task = " ".join([one.task, one.pair]).strip()
    return f"{task}: {one.top1_mean:.2f}{spread} % top-1, {seeds}{over} ({one.result_file})"


def _options(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    required = document.get("required", ())
    for option, facts in (document.get("properties") or {"-": {"type": "-", "default": "-"}}).items():
        default = "required" if option in required else str(facts.get("default", "-"))
        yield option, str(facts.get("type", "see --json")), default


app.command("list")(delivering(list_methods))
app.command("show")(delivering(show_method))
app.command("schema")(delivering(show_schema))
