"""A user's own Python file as a module: teachers and loss terms come from such files."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import ConfigError


def import_file(path: Path, purpose: str) -> ModuleType:
    """Run a Python file and return it as a module; a file of the same content is run once in a process.

    Args:
        path: The file; its code runs.
        purpose: What it is, for messages (`"teacher file"`).

    Raises:
        ConfigError: The file is missing, is no Python file, or its code fails.
    """
    if not path.is_file():
        raise ConfigError(f"{purpose} {path}: no such file")
    name = f"edgekd_user_{sha256_of_file(path)[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    plan = importlib.util.spec_from_file_location(name, path)
    if plan is None or plan.loader is None:
        raise ConfigError(f"{purpose} {path}: expected a Python file ending in .py")
    module = importlib.util.module_from_spec(plan)
    sys.modules[name] = module
    try:
        with neighbours_importable(path):
            plan.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{purpose} {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def neighbours_importable(path: Path) -> Iterator[None]:
    """Let a file's neighbours be imported inside the block."""
    entry = str(path.parent.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
