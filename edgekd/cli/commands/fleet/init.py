"""`edgekd fleet init`: a first `fleet.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome
from edgekd.cli.writing import DryRun, Force, planned, require_free


def init(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the fleet.")] = Path(),
    *,
    name: Annotated[str, typer.Option(help="Name of the fleet.")] = "fleet",
    group: Annotated[list[str] | None, typer.Option(help="A group of devices; may be repeated.")] = None,
    target: Annotated[str, typer.Option(help="Device model of the groups, as `edgekd targets list` names it.")] = "",
    device: Annotated[
        list[str] | None, typer.Option(help="A device of the first group, as name=user@host; may be repeated.")
    ] = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Write a first fleet.yaml, with every setting and what it means.

    Example:
      edgekd fleet init plant --group line --target jetson-orin-nx-16gb --device orin-1=edgekd-push@192.168.1.20
    """
    from edgekd.core.atomic import write_text
    from edgekd.ship.fleet.inventory import FLEET_FILE, fleet_from
    from edgekd.ship.fleet.template import fleet_text, parsed

    path = folder / FLEET_FILE
    require_free(path, is_forced=force)
    text = fleet_text(name, group or ["line"], target, device or [])
    fleet_from(parsed(text), "edgekd fleet init")
    if dry_run:
        return planned(path, f"the fleet {name}")
    write_text(path, text)
    groups = " ".join(f"--group {one}" for one in group or ["line"])
    following = (
        f"{path}\nnext: add your devices to it, then\n"
        f"  edgekd ship keys init --repo {folder / 'fleet-repo'} --keys KEYS {groups}\n"
        f"  edgekd fleet provision -f {folder}"
    )
    return Outcome({"file": str(path)}, following)
