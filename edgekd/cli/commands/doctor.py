"""`edgekd doctor`: is this machine fit for edgekd, and what to do if not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table
from edgekd.core.errors import ExitCode, unknown_name

if TYPE_CHECKING:
    from edgekd.cli.checkup import Check


def doctor(
    folder: Annotated[Path, typer.Option("--folder", help="Where runs will be kept.")] = Path("runs"),
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="NAME", help="Fail unless this optional check passes too; repeatable."),
    ] = None,
) -> Outcome:
    """Check this machine and say how to mend what is missing.

    Packages are really imported and ONNX Runtime providers really run a model. Ends with 5 when something required
    is missing or broken.

    Example:
      edgekd doctor
      edgekd doctor --require tensorrt_rtx --json
    """
    from edgekd.cli.checkup import check_all

    checks = _with_required(check_all(folder), require or [])
    failed = [check.name.strip() for check in checks if check.is_failed]
    document = {"is_ready": not failed, "failed": failed, "checks": [dataclasses.asdict(check) for check in checks]}
    return Outcome(document, _text(checks, failed), ExitCode.PRECONDITION if failed else ExitCode.DONE)


def _with_required(checks: list[Check], names: list[str]) -> list[Check]:
    known = {check.name.strip() for check in checks}
    for name in names:
        if name not in known:
            raise unknown_name("check", name, known)
    return [dataclasses.replace(c, is_required=c.is_required or c.name.strip() in names) for c in checks]


def _text(checks: list[Check], failed: list[str]) -> str:
    header = ("check", "status", "found", "needed", "fix")
    rows = [(c.name, "FAILED" if c.is_failed else c.status, c.found, c.needed, c.fix) for c in checks]
    verdict = f"not ready: {', '.join(failed)}" if failed else "ready"
    return f"{format_table(header, rows)}\n\n{verdict}"
