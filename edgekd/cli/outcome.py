"""What a command hands back, and how it reaches the terminal: text for people or one JSON document, never a mixture.

A command is a plain function that returns an `Outcome`. `delivering` gives it its `--json` option and prints the
result. While it works, everything that it or a library prints, C++ libraries included, goes to stderr, so that stdout
carries the result and nothing else.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, TextIO

import typer

from edgekd.core.errors import ExitCode

SCHEMA_VERSION = 1

_EXAMPLES = re.compile(r"^(Examples?:)$", re.MULTILINE)
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True)
class Outcome:
    """The result of a command.

    Attributes:
        document: Plain JSON data for `--json`; `schema_version` is added to a mapping that brings none. A list of rows
            is printed as it is, for commands whose output is a table by contract.
        text: The same for people.
        exit_code: What the command ends with; a gate that was measured and missed is a result, not an error.
    """

    document: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    text: str
    exit_code: ExitCode = ExitCode.DONE


def delivering(command: Callable[..., Outcome]) -> Callable[..., None]:
    """Turn a function that returns an `Outcome` into a typer command with `--json` and that exit code.

    Args:
        command: The function; its parameters are annotated for typer.

    Returns:
        A function to register: the same parameters and `--json`.
    """

    @functools.wraps(command)
    def run(*args: Any, as_json: bool = False, **options: Any) -> None:
        with stdout_kept_for_results() as stdout:
            outcome = command(*args, **options)
        if as_json:
            print_document(outcome.document, stdout)
        else:
            stdout.write(outcome.text + "\n")
        raise typer.Exit(outcome.exit_code)

    signature = inspect.signature(command, eval_str=True)
    as_json = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_AsJson)
    parameters = [*signature.parameters.values(), as_json]
    run.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    run.__doc__ = inspect.getdoc(command)
    if run.__doc__ is not None:
        run.__doc__ = _EXAMPLES.sub("\b\n\\1", run.__doc__)  # keeps their lines as they are in the help
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def print_document(document: Mapping[str, Any] | Sequence[Mapping[str, Any]], stream: TextIO) -> None:
    """Write one JSON document, a mapping with its `schema_version`; NaN is refused with `ValueError`."""
    whole = {"schema_version": SCHEMA_VERSION, **document} if isinstance(document, Mapping) else list(document)
    stream.write(json.dumps(whole, indent=2, allow_nan=False) + "\n")
    stream.flush()


@contextmanager
def stdout_kept_for_results() -> Iterator[TextIO]:
    """Send everything printed inside the block to stderr.

    Yields:
        The stream results belong on: stdout as it was.
    """
    kept = sys.stdout
    with redirect_stdout(sys.stderr), _file_descriptor_redirected(kept):
        yield kept


@contextmanager
def _file_descriptor_redirected(kept: TextIO) -> Iterator[None]:
    try:
        source, target = kept.fileno(), sys.stderr.fileno()
    except (io.UnsupportedOperation, AttributeError, ValueError):
        yield
        return
    kept.flush()
    original = os.dup(source)
    os.dup2(target, source)
    try:
        yield
    finally:
        kept.flush()
        os.dup2(original, source)
        os.close(original)
