"""`edgekd probe`: what a finished run's students took over from their teacher."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.console import Verbosity, progress
from edgekd.cli.outcome import SCHEMA_VERSION, Outcome, delivering
from edgekd.cli.table import format_table
from edgekd.cli.writing import Force, require_free

if TYPE_CHECKING:
    from edgekd.pipeline.comparison import Comparison
    from edgekd.pipeline.finished import FinishedRun

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What students took over from their teacher.")


class SplitChoice(str, Enum):
    """A part of a data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


def list_probes() -> Outcome:
    """List every probe.

    Example:
      edgekd probe list
    """
    from edgekd.distill.probes import PROBES

    listed = [
        {"name": name, "title": PROBES[name].title, "reference": PROBES[name].reference, "splits": PROBES[name].splits}
        for name in PROBES
    ]
    rows = [(name, ", ".join(PROBES[name].splits), PROBES[name].title) for name in PROBES]
    return Outcome({"probes": listed}, format_table(("probe", "split", "what it asks"), rows))


def show_probe(name: Annotated[str, typer.Argument(help="A probe; `edgekd probe list`.")]) -> Outcome:
    """Show a probe: what it counts, its chance value, its options.

    Example:
      edgekd probe show localisation
    """
    import inspect

    from edgekd.distill.options import checked_options
    from edgekd.distill.probes import PROBES

    probe = PROBES[name]
    options = checked_options(f"probe {name!r}", probe.compare, {})
    facts = {
        "name": name,
        "title": probe.title,
        "reference": probe.reference,
        "chance": probe.chance,
        "extreme": dict(probe.extreme),
        "roles": [*probe.needs, *probe.uses],
        "splits": list(probe.splits),
        "options": options,
    }
    text = inspect.getdoc(probe.compare) or ""
    rows = [(option, str(value)) for option, value in options.items()]
    table = format_table(("option", "default"), rows) if rows else "no options"
    return Outcome({"probe": facts}, f"{name}: {probe.title}\n\n{text}\n\nChance: {probe.chance}\n\n{table}")


def run_probes(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Probes; `edgekd probe list`.")],
    run: Annotated[Path, typer.Argument(help="Folder of a finished `edgekd distill` run.")],
    *,
    split: Annotated[
        list[SplitChoice] | None, typer.Option(help="Part of the data; may be repeated; the probe's own by default.")
    ] = None,
    assign: Annotated[list[str] | None, typer.Option("--set", help="option=value, or probe.option=value.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Other pictures than the run's: a data set name or YAML file.")
    ] = None,
    foreign: Annotated[Path | None, typer.Option(help="A run whose teacher is the foreign network.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON document to this file.")] = None,
    force: Force = False,
) -> Outcome:
    """Run probes on every distilled seed of a run, next to the students trained without the teacher.

    Examples:
      edgekd probe run fidelity cka runs/demo
      edgekd probe run adversarial runs/demo --set epsilon=0.05 --json
      edgekd probe run consensus runs/demo --data other.yaml --set domains=[as-is]
    """
    from edgekd.cli.data_choice import dataset_from_choice
    from edgekd.cli.probe_text import comparison_text
    from edgekd.core.atomic import write_json
    from edgekd.pipeline.comparison import ProbeRequest, compare
    from edgekd.pipeline.finished import load_finished

    if out is not None:
        require_free(out, is_forced=force)
    finished = load_finished(run)
    verbosity = context.obj if isinstance(context.obj, Verbosity) else Verbosity(is_quiet=False, is_verbose=False)
    with progress(is_quiet=verbosity.is_quiet) as listener:
        request = ProbeRequest(
            names=tuple(names),
            splits=tuple(choice.value for choice in split or ()),
            assignments=tuple(assign or ()),
            other_data=None if data is None else dataset_from_choice(data),
            foreign=foreign,
            listener=listener,
        )
        comparisons = compare(finished, request)
    document = _document(finished, comparisons)
    if out is not None:
        write_json(out, document)
    return Outcome(document, comparison_text(comparisons))


def _document(run: FinishedRun, comparisons: tuple[Comparison, ...]) -> dict[str, Any]:
    import dataclasses

    return {
        "schema_version": SCHEMA_VERSION,
        "run": run.folder.resolve().name,
        "method": run.distilled[0].method,
        "teacher": {"net": run.teacher.spec.name, "digest": run.teacher.digest},
        "student": {"net": run.distilled[0].spec.name, "seeds": [model.seed for model in run.distilled]},
        "probes": [dataclasses.asdict(comparison) for comparison in comparisons],
    }


app.command("list")(delivering(list_probes))
app.command("show")(delivering(show_probe))
app.command("run")(delivering(run_probes))
