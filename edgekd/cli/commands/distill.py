"""`edgekd distill`: the whole way from a data set to a student that is packed for a device."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.console import Verbosity, progress
from edgekd.cli.failure import print_error
from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ExitCode

if TYPE_CHECKING:
    from edgekd.pipeline.config import RunConfig


def distill(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="A YAML file; flags and --set win over it.")] = None,
    *,
    target: Annotated[
        str | None, typer.Option(help="Device the student is for, NAME@MODE for a power mode; `edgekd targets list`.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help='Limits on it, for example "p99<8ms" or "p50<5ms, p99<8ms, memory<4MB".')
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set by name; digits needs no file.")] = None,
    data_path: Annotated[Path | None, typer.Option(help="Folder, archive or table of the data set.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Zoo name, timm:NAME, file.py:function or hf:FOLDER.")] = None,
    teacher_weights: Annotated[Path | None, typer.Option(help="Its weights; without any it is trained.")] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="Family, pruned (the teacher with fewer channels), one network (resnet8-w4, timm:NAME, "
            "file.py:function), or the file of one found."
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Recipe; `edgekd methods list`.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each student.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Students trained with and without the teacher.")] = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="Any setting as key.sub=value.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; the same command resumes it.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over in the run folder.")] = False,
    num_processes: Annotated[
        int | None, typer.Option(min=1, help="Processes here that train together, one for each GPU.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be done, time and memory; write nothing."),
    ] = False,
) -> Outcome:
    """Distil a student that keeps a budget of latency and memory; export, quantise, build, time and pack it.

    Ends with 3 when the budget is missed. Run the same command again to resume.

    Examples:
      edgekd distill --target jetson-orin
      edgekd distill --target cpu --budget "p99<1ms" --data cifar10 --data-path ./cifar-10-binary.tar.gz
      edgekd distill --num-processes 4 --data folder --data-path ./pictures --set train.precision=bf16
      edgekd distill run.yaml --set train.lr=0.1 --set student.depths=[8,14]
    """
    from edgekd.cli.launching import end_with_the_launcher, is_launched
    from edgekd.pipeline.config import load_config

    if num_processes is not None and num_processes > 1 and not dry_run and not is_launched(num_processes):
        return _in_processes(num_processes)
    end_with_the_launcher()
    flags = {
        "target": target,
        "budget": budget,
        "method": method,
        "seeds": seeds,
        "data": {"name": data, "path": _text(data_path)},
        "teacher": {"net": teacher, "weights": _text(teacher_weights)},
        "student": _student(student),
        "train": {"epochs": epochs},
    }
    settings = load_config(config, flags=_given(flags), overrides=assign or [])
    folder = out or Path("runs") / default_name(settings)
    if dry_run:
        return _planned(settings, folder)
    from edgekd.cli.joining import first_of_group
    from edgekd.cli.report_text import report_text
    from edgekd.pipeline.run import RunRequest
    from edgekd.pipeline.run import distill as run

    verbosity = context.obj if isinstance(context.obj, Verbosity) else Verbosity(is_quiet=False, is_verbose=False)
    command = shlex.join(["edgekd", *sys.argv[1:]])
    with progress(is_quiet=verbosity.is_quiet) as listener, first_of_group(settings, folder) as group:
        report = run(settings, RunRequest(folder, command, fresh, listener, group))
    exit_code = ExitCode.GATE_MISSED if report.budget is not None and report.budget.misses else ExitCode.DONE
    text = f"{report_text(report)}\n\n{folder / 'report.html'}"
    return Outcome(report.model_dump(mode="json"), text, exit_code)


def _in_processes(processes: int) -> Outcome:
    """Run this command as several processes; what the first prints is the result."""
    import json

    from edgekd.cli.launching import launch

    finished = launch(sys.argv[1:], processes)
    if finished.message:
        print_error(finished.message, sys.stderr)
    if not finished.stdout:
        raise typer.Exit(finished.exit_code)
    document = json.loads(finished.stdout) if "--json" in sys.argv else {}
    return Outcome(document, finished.stdout.rstrip("\n"), ExitCode(finished.exit_code))


def default_name(settings: RunConfig) -> str:
    """Return the name of the run folder where none is given."""
    target = Path(settings.target).name.removesuffix(".yaml")
    return f"{settings.data.name}-{Path(settings.method).stem}-{target}"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _student(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if text.endswith(".json"):
        return {"found": text}
    from edgekd.models import PRUNED, is_foreign, parse_net

    if is_foreign(text):
        return {"net": text}
    if text == PRUNED:  # limited by the shares that it keeps, not by what a preset allows its own family
        return {"family": PRUNED, "max_share": 1.0}
    family, choice = parse_net(text)
    one_of = {"depths": [choice["depth"]] if "depth" in choice else None}
    one_of["widths"] = [choice["width"]] if "width" in choice else None
    return {"family": family, **one_of, "options": choice.get("options")}


def _given(document: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _given(value) if isinstance(value, dict) else value for key, value in document.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def _planned(settings: RunConfig, folder: Path) -> Outcome:
    import yaml

    from edgekd.distill import load_recipe
    from edgekd.pipeline.estimating import estimate_text, estimated
    from edgekd.pipeline.reporting import run_files
    from edgekd.targets import describe, get_target

    recipe, target = load_recipe(settings.method), get_target(settings.target)
    document = settings.model_dump(mode="json")
    files = run_files(folder)
    trainings = estimated(settings)
    text = (
        f"{describe(target)}\nmethod: {recipe.title}\n\n{yaml.safe_dump(document, sort_keys=False)}\n"
        f"{estimate_text(trainings)}\n\nwould write:\n  "
    )
    plan = {"config": document, "folder": str(folder), "writes": files, "estimate": [asdict(one) for one in trainings]}
    return Outcome(plan, text + "\n  ".join(files))
