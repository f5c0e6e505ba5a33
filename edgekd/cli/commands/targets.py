"""`edgekd targets`: the devices edgekd knows, and what it knows about each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.targets import Target

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Devices that a student can be made for.")


def list_targets() -> Outcome:
    """List every target and alias.

    Example:
      edgekd targets list
    """
    from edgekd.targets import aliases, get_target, target_names

    targets = [get_target(name) for name in target_names()]
    rows = [
        (t.name, t.kind, _architecture(t), t.power_mode or "-", t.jetpack or "-", t.tensorrt or "-", t.title)
        for t in targets
    ]
    table = format_table(("target", "kind", "sm", "power", "JetPack", "TensorRT", "device"), rows)
    other = format_table(("alias", "stands for"), sorted(aliases().items()))
    keys = ("name", "title", "kind", "sm", "power_mode", "jetpack", "tensorrt")
    listed = [{key: getattr(target, key) for key in keys} for target in targets]
    return Outcome({"targets": listed, "aliases": aliases()}, f"{table}\n\n{other}")


def show_target(name: Annotated[str, typer.Argument(help="A target or alias.")]) -> Outcome:
    """Show every figure of one target and where it comes from (S read in a source, D derived, M from memory).

    Example:
      edgekd targets show jetson-orin
    """
    from edgekd.targets import describe, get_target

    target = get_target(name)
    facts = dataclasses.asdict(target)
    rows = [
        (key, _shown(value), _origin(target, key))
        for key, value in facts.items()
        if key not in ("name", "power_modes", "notes", "sources") and value not in (None, "", (), {})
    ]
    notes = "".join(f"\nnote: {note}" for note in target.notes)
    text = f"{describe(target)}\n\n{format_table(('fact', 'value', 'source'), rows)}{notes}"
    return Outcome({"target": {**facts, "digest": target.digest}}, text)


def _architecture(target: Target) -> str:
    return "-" if target.sm is None else f"sm_{target.sm}"


def _origin(target: Target, key: str) -> str:
    parts = {
        name.removeprefix(f"{key}."): source for name, source in target.sources.items() if name.startswith(f"{key}.")
    }
    return target.sources.get(key) or ", ".join(f"{name} {source}" for name, source in parts.items())


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item:g}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


app.command("list")(delivering(list_targets))
app.command("show")(delivering(show_target))
