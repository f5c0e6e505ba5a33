"""Where commands write: nothing of the user's is overwritten unless they say so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ConfigError

Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be written, write nothing.")]


def require_free(path: Path, *, is_forced: bool) -> None:
    """Refuse to overwrite.

    Args:
        path: A file or folder about to be written; an empty folder is free.
        is_forced: The user allows it.

    Raises:
        ConfigError: Something is there.
    """
    is_taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if is_taken and not is_forced:
        raise ConfigError(f"{path} exists: choose another place, or pass --force to overwrite it")


def planned(path: Path, what: str) -> Outcome:
    """Return what a dry run prints.

    Args:
        path: What would be written.
        what: What it would be, in words.
    """
    return Outcome({"is_dry_run": True, "would_write": [str(path)]}, f"would write {what} to {path}")
