"""`edgekd methods`: the distillation recipes, and what each is."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.table import format_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Distillation methods.")


def list_methods() -> Outcome:
    """List every recipe.

    Example:
      edgekd methods list
    """
    from edgekd.distill import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    listed = [{"name": r.name, "title": r.title, "paper": r.paper, "takes_a_base": r.takes_base} for r in recipes]
    rows = [(r.name, r.title, r.paper or "-") for r in recipes]
    note = f"{', '.join(r.name for r in recipes if r.takes_base)} also wrap another method: --method mas+sp"
    return Outcome({"methods": listed}, f"{format_table(('method', 'title', 'paper'), rows)}\n\n{note}")


def show_method(name: Annotated[str, typer.Argument(help="A recipe, wrapper+base, or a YAML file.")]) -> Outcome:
    """Show a recipe: its formula, where it differs from the paper, and its YAML.

    Example:
      edgekd methods show mas+sp
    """
    import yaml

    from edgekd.distill import load_recipe

    recipe = load_recipe(name)
    document = recipe.model_dump(mode="json", exclude_defaults=True)
    facts = [recipe.title, recipe.paper, recipe.formula, recipe.deviations]
    text = "\n".join(fact for fact in facts if fact)
    return Outcome({"method": document}, f"{text}\n\n{yaml.safe_dump(document, sort_keys=False)}")


def schema_of_terms(term: Annotated[str | None, typer.Argument(help="One term; all by default.")] = None) -> Outcome:
    """Show the loss terms that recipes are made of, and the options of each.

    Example:
      edgekd methods schema kd
    """
    from edgekd.distill.terms import TERMS, term_schema

    schemas = {name: term_schema(name) for name in ([term] if term else TERMS)}
    rows = [
        (name, option, str(facts.get("type", "see --json")), str(facts.get("default", "required")))
        for name, document in schemas.items()
        for option, facts in (document["properties"] or {"-": {}}).items()
    ]
    return Outcome({"terms": schemas}, format_table(("term", "option", "type", "default"), rows))


app.command("list")(delivering(list_methods))
app.command("show")(delivering(show_method))
app.command("schema")(delivering(schema_of_terms))
