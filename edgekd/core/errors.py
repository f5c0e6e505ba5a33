"""Every error edgekd raises on purpose, and the exit code each one ends the command with.

A message says what happened, with the values, and what to do about it. Errors are raised where they are
known and caught once, in `edgekd.cli`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every edgekd command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    GATE_MISSED = 3
    TARGET = 4
    PRECONDITION = 5
    TRUST = 6
    INTERRUPTED = 130


class EdgeKDError(Exception):
    """Base of all errors that edgekd reports as one clear message."""

    exit_code: ExitCode = ExitCode.FAILED


class ConfigError(EdgeKDError):
    """The command line, a configuration file or a recipe is wrong."""

    exit_code = ExitCode.USAGE


class DataError(EdgeKDError):
    """A data set was found but its content is unusable (corrupt image, label out of range, empty split)."""


class CorruptInput(DataError):
    """One input of a data set cannot be decoded.

    Args:
        name: Which one.
        reason: What is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.name}: cannot be read as a picture ({self.reason}); replace or remove it, or go on without up to a "
            "number of such inputs, or a share: data.max_corrupt"
        )


class TrainingDiverged(EdgeKDError):
    """A loss became NaN or infinite; the last good checkpoint is kept."""


class OutOfMemory(EdgeKDError):
    """A step needs more memory than there is."""


class ProcessLost(EdgeKDError):
    """One of several processes of a training ended, or cannot be reached."""


class ExportError(EdgeKDError):
    """A network could not be turned into a valid ONNX model."""


class BuildError(EdgeKDError):
    """An engine backend refused to build or run a model."""


class RunLocked(EdgeKDError):
    """Another process is working in the same run folder."""


class StorageError(EdgeKDError):
    """A file could not be written or read (disk full, read-only, corrupt)."""


class GateMissed(EdgeKDError):
    """A gate that was asked for (latency, accuracy, parity) is not kept."""

    exit_code = ExitCode.GATE_MISSED


class ParityError(GateMissed):
    """Two representations of one network disagree beyond tolerance."""


class BudgetExceeded(GateMissed):
    """The latency budget is missed, or no student can reach it."""


class TargetError(EdgeKDError):
    """The target cannot be reached or cannot run what was built."""

    exit_code = ExitCode.TARGET


class PreconditionError(EdgeKDError):
    """Something needed is missing on this machine: a package, a data set, a tool."""

    exit_code = ExitCode.PRECONDITION


class BundleError(EdgeKDError):
    """A bundle is malformed, incomplete or altered."""

    exit_code = ExitCode.TRUST


class SignatureError(BundleError):
    """Signed metadata, or a key, is not what it must be."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for a name that is not registered, listing the nearest known ones.

    Args:
        kind: What the name stands for, in words (`"target"`).
        name: What the user wrote.
        known: Every valid name.

    Returns:
        A `ConfigError` to raise.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")


def missing_package(package: str, extra: str, purpose: str) -> PreconditionError:
    """Build the error for an optional package that is not installed.

    Args:
        package: The import name that failed.
        extra: The edgekd extra that installs it.
        purpose: What it is needed for, in words.

    Returns:
        A `PreconditionError` to raise.
    """
    return PreconditionError(f"{purpose} needs the package {package!r}: pip install 'edgekd[{extra}]'")
