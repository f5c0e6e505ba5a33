"""A group with a command that need not be named: `edgekd profile net.onnx` is `edgekd profile measure net.onnx`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

DEFAULT = "measure"
_HELP = ("-h", "--help")


class MeasuringGroup(TyperGroup):
    """A group whose command `measure` is meant where the first word names no command; its help shows that one's too."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the command's name before words that do not start with one."""
        if args and args[0] not in self.commands and args[0] not in _HELP:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the options of the group, its commands, and the options of `measure`."""
        super().format_options(ctx, formatter)
        records = [parameter.get_help_record(ctx) for parameter in self.commands[DEFAULT].params]
        with formatter.section(f"Options of {DEFAULT}"):
            formatter.write_dl([record for record in records if record is not None])
