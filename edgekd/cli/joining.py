"""Taking part in a run as one of several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from edgekd.data import CORRUPT_FILE, load_dataset
from edgekd.distill import load_recipe
from edgekd.distill.group import Group, launched
from edgekd.pipeline.config import RunConfig


@contextmanager
def first_of_group(config: RunConfig, folder: Path) -> Iterator[Group | None]:
    """Join the processes that a launcher started: the first goes into the block, the others take part and then end.

    Args:
        config: The run.
        folder: Its folder, which all processes share.

    Yields:
        The group, or None where this process is alone.

    Raises:
        ConfigError: The launcher's variables are incomplete.
        ProcessLost: The others do not come.
        typer.Exit: In the other processes, once the first has nothing more to train.
    """
    ranks = launched()
    if ranks.is_alone:
        yield None
        return
    group = Group(ranks)
    if not ranks.is_main:
        load_recipe(config.method)  # Runs the Python files of a recipe, whose terms the trainings name.
        group.follow(load_dataset(config.data, corrupt_file=folder.resolve() / CORRUPT_FILE))
        raise typer.Exit(0)
    try:
        yield group
    finally:
        group.dismiss()
