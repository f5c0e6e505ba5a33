"""`edgekd ship agent`: the device's agent as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free


def agent(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("edgekd-agent.pyz"),
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Write the device's agent as one file that a bare Python 3.10 runs.

    It holds edgekd_agent, tuf and securesystemslib with their licences; equal sources give equal bytes.

    Example:
      edgekd ship agent --out edgekd-agent.pyz
      python3 edgekd-agent.pyz --root /var/lib/edgekd hello
    """
    from edgekd.core import atomic
    from edgekd.ship.agent_program import agent_program

    require_free(out, is_forced=force)
    program = agent_program()
    if dry_run:
        return planned(out, "the agent")
    atomic.write_bytes(out, program.content)
    document = {
        "path": str(out),
        "size_bytes": len(program.content),
        "sha256": program.sha256,
        "versions": dict(program.versions),
    }
    return Outcome(document, f"{out}: {len(program.content)} bytes, sha256 {program.sha256}")
