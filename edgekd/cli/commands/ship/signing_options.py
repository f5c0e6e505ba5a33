"""What all commands that sign have in common: where the repository and the keys are, and the passphrase."""

from __future__ import annotations

import functools
import getpass
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgekd.core.errors import ConfigError, missing_package

PASSPHRASE_VARIABLE = "EDGEKD_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable, not a secret

Repo = Annotated[Path, typer.Option("--repo", file_okay=False, help="Folder of the repository.")]
Keys = Annotated[Path, typer.Option("--keys", file_okay=False, help="Folder of private keys, apart from it.")]
DEFAULT_REPO = Path("fleet-repo")


def require_tuf() -> None:
    """Raise `PreconditionError` when the packages that sign are not installed."""
    for package in ("tuf", "cryptography"):
        if importlib.util.find_spec(package) is None:
            raise missing_package(package, "ship", "signing")


def passphrase_prompt() -> Callable[[], str | None]:
    """Return what gives the passphrase of private keys when one is encrypted: the environment, or one question."""
    return functools.cache(_asked)


def new_passphrase() -> str | None:
    """Return the passphrase for keys that are about to be made; asked twice on a terminal.

    Raises:
        ConfigError: It was not the same twice.
    """
    passphrase = _asked()
    is_asked = passphrase is not None and not os.environ.get(PASSPHRASE_VARIABLE)
    if is_asked and getpass.getpass("The same again: ") != passphrase:
        raise ConfigError("that was not the same passphrase twice; no key was made")
    return passphrase


def _asked() -> str | None:
    if given := os.environ.get(PASSPHRASE_VARIABLE):
        return given
    if not sys.stdin.isatty():
        return None
    return getpass.getpass("Passphrase of the private keys (empty for none): ") or None
