"""`edgekd recipes`: the YAML of a method, to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.writing import Force, require_free

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Recipes to edit.")


@app.callback()
def recipes() -> None:
    """Recipes to edit."""


def copy_recipe(
    name: Annotated[str, typer.Argument(help="A method, or wrapper+base.")],
    destination: Annotated[Path, typer.Argument(help="The YAML file to write.")],
    *,
    force: Force = False,
) -> Outcome:
    """Write a method's recipe to a file; run it with `edgekd distill --method FILE`.

    Example:
      edgekd recipes cp mas mine.yaml
    """
    import yaml

    from edgekd.core.atomic import write_text
    from edgekd.core.errors import ConfigError
    from edgekd.distill import load_recipe

    if destination.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{destination}: a recipe is a .yaml file")
    require_free(destination, is_forced=force)
    document = load_recipe(name).model_dump(mode="json", exclude_defaults=True)
    write_text(destination, yaml.safe_dump(document, sort_keys=False))
    return Outcome({"recipe": document, "path": str(destination)}, f"{destination}: {document['title']}")


app.command("cp")(delivering(copy_recipe))
