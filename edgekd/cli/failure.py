"""The one place where errors become a message and an exit code."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TextIO, runtime_checkable

import typer
from typer.core import TyperGroup

from edgekd.cli.outcome import print_document
from edgekd.core.errors import EdgeKDError, ExitCode


class Interrupted(EdgeKDError):
    """The user pressed Ctrl-C."""

    exit_code = ExitCode.INTERRUPTED


@runtime_checkable
class UsageProblem(Protocol):
    """What typer raises for a command line it cannot read."""

    exit_code: int

    def format_message(self) -> str:
        """Say what is wrong."""
        ...

    def show(self) -> None:
        """Print that with the usage of the command."""
        ...


@dataclass(frozen=True)
class Failure:
    """An error as the user sees it.

    Attributes:
        kind: Name of its class.
        message: What happened and what to do.
        exit_code: What the command ends with.
    """

    kind: str
    message: str
    exit_code: int


class ReportingGroup(TyperGroup):
    """The root command: every error of every command ends here as one clear message."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command; Ctrl-C becomes an error like any other."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted; run the same command again to resume") from error

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run the command line and exit.

        Args:
            args: The words after the program's name; those of the process by default.
            prog_name: Name to show in usage lines.
            **extra: What typer and its test runner pass on.
        """
        words = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(words, prog_name or "edgekd", **{**extra, "standalone_mode": False})
        except Exception as error:
            code = _reported(error, words)
        sys.exit(code if isinstance(code, int) else ExitCode.DONE)


def _reported(error: Exception, words: Sequence[str]) -> int:
    # The options are read from the words: a wrong command line fails before they are parsed.
    is_verbose = not {"-v", "--verbose"}.isdisjoint(words)
    failure = _failure_of(error, is_verbose=is_verbose)
    if isinstance(error, UsageProblem):
        error.show()
    else:
        print_error(failure.message, sys.stderr)
    if "--json" in words:
        described = {"type": failure.kind, "message": failure.message, "exit_code": failure.exit_code}
        print_document({"error": described}, sys.stdout)
    return failure.exit_code


def _failure_of(error: Exception, *, is_verbose: bool) -> Failure:
    kind = type(error).__name__
    if is_verbose:
        traceback.print_exception(error)
    if isinstance(error, EdgeKDError):
        return Failure(kind, str(error), int(error.exit_code))
    if isinstance(error, UsageProblem):
        return Failure(kind, error.format_message(), error.exit_code)
    where = "" if is_verbose else f"; {_kept_traceback(error)}"
    return Failure(kind, f"unexpected {kind}: {error}{where}", int(ExitCode.FAILED))


def _kept_traceback(error: Exception) -> str:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="edgekd-", suffix=".traceback.txt", delete=False) as stream:
            traceback.print_exception(error, file=stream)
    except OSError as refusal:
        return f"its traceback could not be written ({refusal.strerror}): run again with edgekd -v to see it"
    return f"this is likely a fault of edgekd, its traceback is in {stream.name}"


def print_error(message: str, stream: TextIO) -> None:
    """Write `error: message`, coloured on a terminal."""
    if not stream.isatty():
        stream.write(f"error: {message}\n")
        return
    from rich.console import Console
    from rich.text import Text

    Console(file=stream).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
