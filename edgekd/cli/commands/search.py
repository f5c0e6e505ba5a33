"""`edgekd search`: which student keeps the budget and learns best."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.console import Verbosity, progress
from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.pipeline.config import RunConfig


def search(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="A YAML file; flags and --set win over it.")] = None,
    *,
    target: Annotated[str | None, typer.Option(help="Device the student is for; `edgekd targets list`.")] = None,
    budget: Annotated[str | None, typer.Option(help='What must hold, for example "p99<8ms, memory<64MB".')] = None,
    data: Annotated[str | None, typer.Option(help="Data set by name; digits needs no file.")] = None,
    data_path: Annotated[Path | None, typer.Option(help="Folder, archive or table of the data set.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Zoo name, timm:NAME, file.py:function or hf:FOLDER.")] = None,
    teacher_weights: Annotated[Path | None, typer.Option(help="Its weights; without any it is trained.")] = None,
    space: Annotated[
        str | None, typer.Option(help="Families to search, joined by commas; pruned is the teacher cut smaller.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Students to train for a short while, in all.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on this machine.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Begin no student after so many minutes.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="File or postgresql://user@host/name that several machines share.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Board of the target's kind, user@host: finalists are built and measured there.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study; the same name resumes or joins it.")] = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="Any setting as key.sub=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; the same command resumes it.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train the teacher and calibrate anew.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the space and what would be done.")] = False,
) -> Outcome:
    """Search the student that learns best within a budget; `edgekd distill --student FILE` then distils it.

    First says what the space costs on the target and whether the budget can be reached. Ends with 3 when no student
    keeps it. On cpu, and with --device on a board, every student returned was measured; for other targets the upper end
    of the prediction counts.

    Examples:
      edgekd search --target cpu --budget "p99<1ms" --trials 12
      edgekd search --target jetson-orin --budget "p99<2ms, memory<8MB" --space resnet,mobilenetv2,pruned --workers 4
      edgekd search --target jetson-orin-nano --device me@robot --budget "p99<2ms, energy<20mJ"
      edgekd distill --student runs/digits-search-cpu/finalists/student1.json --target cpu --budget "p99<1ms"
    """
    from edgekd.pipeline.config import load_config

    flags = {
        "target": target,
        "budget": budget,
        "data": {"name": data, "path": None if data_path is None else str(data_path)},
        "teacher": {"net": teacher, "weights": None if teacher_weights is None else str(teacher_weights)},
        "search": {
            "space": {"families": None if space is None else [one.strip() for one in space.split(",")]},
            "trials": trials,
            "workers": workers,
            "minutes": minutes,
            "storage": storage,
            "device": device,
            "name": name,
        },
    }
    settings = load_config(config, flags=_given(flags), overrides=assign or [])
    folder = out or Path("runs") / f"{settings.data.name}-search-{settings.target}"
    if dry_run:
        return _planned(settings, folder)
    from edgekd.pipeline.run import RunRequest
    from edgekd.pipeline.search_report import document_of
    from edgekd.pipeline.searching import search as run
    from edgekd.report import write_search_report

    verbosity = context.obj if isinstance(context.obj, Verbosity) else Verbosity(is_quiet=False, is_verbose=False)
    with progress(is_quiet=verbosity.is_quiet) as listener:
        result = run(settings, RunRequest(folder, shlex.join(["edgekd", *sys.argv[1:]]), fresh, listener))
    document = document_of(settings, result)
    page = write_search_report(document, result.folder)
    return Outcome(document, f"{_text(document)}\n\n{page}")


def _given(document: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _given(value) if isinstance(value, dict) else value for key, value in document.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def _planned(settings: RunConfig, folder: Path) -> Outcome:
    from edgekd.pipeline.search_report import profile_rows
    from edgekd.pipeline.searching import planned_space

    space, profile = planned_space(settings)
    files = [str(folder / name) for name in ("study.journal", "teacher/", "finalists/", "search.json", "search.html")]
    lines = [f"{one.family}: {len(one)} students" for one in space.families]
    if profile is None:
        lines.append(f"cpu is measured: {settings.search.calibration} students would be timed first")
    else:
        lines += [_profile_table(profile_rows(profile)), profile.statement()]
    document = {
        "is_dry_run": True,
        "space": space.document(),
        "students": len(space),
        "profile": None if profile is None else profile_rows(profile),
        "statement": None if profile is None else profile.statement(),
        "would_write": files,
    }
    return Outcome(document, "\n".join([*lines, "would write:", *(f"  {file}" for file in files)]))


def _text(document: Mapping[str, Any]) -> str:
    rows = [
        (
            one["cost"]["name"],
            f"{one['score']:.4f}",
            f"{one['cost']['latency']['p50_ms']:.4g}",
            f"{one['cost']['latency']['p99_ms']:.4g}",
            one["cost"]["latency"]["kind"],
            f"{one['cost']['memory_bytes'] / 1e6:.3g}",
            one["file"],
        )
        for one in document["finalists"]
    ]
    header = ("student", "held-out", "p50 ms", "p99 ms", "latency", "memory MB", "file")
    refused = [f"refused: {one['name']}: {one['reason']}" for one in document["refused"]]
    counts = ", ".join(f"{count} {state}" for state, count in document["states"].items())
    return "\n".join(
        [
            _profile_table(document["profile"]),
            document["statement"],
            "",
            format_table(header, rows),
            *refused,
            f"trials: {counts}; {len(document['front'])} on the Pareto front",
            f"next: {document['next']}",
        ]
    )


def _profile_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (
            row["family"],
            row["corner"],
            row["name"],
            f"{row['macs'] / 1e6:.3g}",
            f"{row['latency']['p50_ms']:.4g}",
            f"{row['latency']['p99_ms']:.4g}",
            row["latency"]["kind"],
            "missed" if row["misses"] else "kept",
        )
        for row in rows
    ]
    return format_table(("family", "member", "student", "MMACs", "p50 ms", "p99 ms", "latency", "budget"), cells)
