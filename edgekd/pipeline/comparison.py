"""Probes on a finished run: every distilled seed, next to the students that had no teacher."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from edgekd.core.config import apply_overrides
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.core.events import Event, Listener, silent
from edgekd.data import Dataset, Split
from edgekd.distill.options import checked_options
from edgekd.distill.probes import PROBES, ROLES, Figures, Models, Probe, SplitName
from edgekd.distill.threads import cpu_threads, threads_for
from edgekd.models import count_macs, load_model
from edgekd.pipeline.finished import FinishedRun, initial_student, require_alone, teacher_of_run

_BATCH = 256
_PREFIXES = (*ROLES, "chance")


@dataclass(frozen=True)
class Spread:
    """One figure over seeds.

    Attributes:
        values: By seed; None where it has no value (a share of no errors).
        mean: Of those there are; None where there are none.
        std: Sample deviation of those there are; None for fewer than two.
    """

    values: tuple[float | None, ...]
    mean: float | None
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values by seed; NaN stands for no value."""
        known = [value for value in values if not math.isnan(value)]
        return cls(
            tuple(None if math.isnan(value) else value for value in values),
            statistics.fmean(known) if known else None,
            statistics.stdev(known) if len(known) > 1 else None,
        )


@dataclass(frozen=True)
class FigureRow:
    """One figure of a probe.

    Attributes:
        name: What is counted.
        distilled: Of the students that had the teacher.
        independent: Of students without it in their place: what chance gives. None where it takes two of them and the
            run has one.
        teacher: Of the teacher itself, where it has one.
        chance: What is known beforehand for a student that has nothing to do with the teacher, where it is.
    """

    name: str
    distilled: Spread
    independent: Spread | None
    teacher: float | None
    chance: float | None


@dataclass(frozen=True)
class Comparison:
    """One probe on one split of a run.

    Attributes:
        probe: Its name.
        split: `train`, `val` or `test`.
        data: Name of the data set the pictures are of.
        options: Every option, as used.
        rows: Its figures.
    """

    probe: str
    split: SplitName
    data: str
    options: Mapping[str, Any]
    rows: tuple[FigureRow, ...]


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe.

    Attributes:
        names: Probes by name.
        splits: Which splits; those each probe is meant for when empty.
        assignments: Options as `option=value`, for every probe that has it, or `probe.option=value`.
        other_data: Pictures to probe on instead of the run's own.
        foreign: Folder of a run whose teacher is the foreign network, or None.
        listener: Told of progress.
    """

    names: tuple[str, ...]
    splits: tuple[SplitName, ...] = ()
    assignments: tuple[str, ...] = ()
    other_data: Dataset | None = None
    foreign: Path | None = None
    listener: Listener = field(default=silent)


@dataclass(frozen=True)
class _Networks:
    teacher: nn.Module
    alone: tuple[nn.Module, ...]
    distilled: tuple[nn.Module, ...]
    starts: tuple[nn.Module, ...]
    foreign: nn.Module | None


def compare(run: FinishedRun, request: ProbeRequest) -> tuple[Comparison, ...]:
    """Run probes on every distilled seed of a run, and on its independent students in their place.

    A probe that sets a student against an independent one runs against each of them; the mean over these is the seed's
    value, and an independent student stands against the others.

    Args:
        run: A finished run that also trained students alone.
        request: Which probes, on what.

    Returns:
        One comparison for each probe and split.

    Raises:
        ConfigError: An unknown probe, an option or data that do not fit, or a run without independent students.
        DataError: The pictures give a probe nothing to count.
        StorageError: A network's weights are missing or altered.
    """
    require_alone(run)
    options = options_by_probe(request.names, request.assignments)
    dataset = request.other_data or run.dataset
    for name in request.names:
        _require_fit(name, run.dataset, dataset)
    networks = _loaded(run, request.foreign)
    splits: dict[SplitName, Split] = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    threads = run.config.train.threads or threads_for(
        _BATCH * count_macs(networks.teacher, run.teacher.spec.input_shape)
    )
    found = []
    with cpu_threads(threads):
        for name in request.names:
            for split in request.splits or PROBES[name].splits:
                ask = partial(_asked, name, splits[split], options[name])
                rows = _rows(f"{name} on {split}", ask, _plan(PROBES[name], networks), request.listener)
                found.append(Comparison(name, split, dataset.name, options[name], rows))
    return tuple(found)


def options_by_probe(names: Sequence[str], assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read and check options.

    Args:
        names: Probes by name.
        assignments: `option=value`, for every probe that has the option, or `probe.option=value`.

    Returns:
        Every option of every probe, defaults filled in.

    Raises:
        ConfigError: Unknown probes or options, and ill-typed values.
    """
    probes = {name: PROBES[name] for name in names}
    given = apply_overrides({}, assignments)
    known = {name: checked_options(f"probe {name!r}", probe.compare, {}) for name, probe in probes.items()}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in given.items():
        if key in probes and isinstance(value, Mapping):
            chosen[key].update(value)
            continue
        takers = [name for name in names if key in known[name]]
        if not takers:
            raise unknown_name(
                f"option of {', '.join(names)}", key, {option for each in known.values() for option in each}
            )
        for name in takers:
            chosen[name].setdefault(key, value)
    return {name: checked_options(f"probe {name!r}", probe.compare, chosen[name]) for name, probe in probes.items()}


def _require_fit(name: str, trained_on: Dataset, probed: Dataset) -> None:
    if trained_on.input_shape != probed.input_shape:
        raise ConfigError(
            f"the run's inputs have shape {list(trained_on.input_shape)}, those of {probed.name} "
            f"{list(probed.input_shape)}: they must agree (data.resolution resizes pictures)"
        )
    PROBES[name].require_fit(probed.test)
    if PROBES[name].reads_labels and trained_on.task != probed.task:
        others = ", ".join(each for each in PROBES if not PROBES[each].reads_labels)
        raise ConfigError(
            f"probe {name!r} reads labels, and {probed.name} has other targets than the run's data; those that do not: "
            f"{others}"
        )


def _loaded(run: FinishedRun, foreign: Path | None) -> _Networks:
    return _Networks(
        load_model(run.teacher),
        tuple(load_model(model) for model in run.alone),
        tuple(load_model(model) for model in run.distilled),
        tuple(initial_student(run, model.seed) for model in run.distilled),
        None if foreign is None else load_model(teacher_of_run(foreign)),
    )


def _asked(name: str, split: Split, options: Mapping[str, Any], models: Models) -> Figures:
    return PROBES[name](models, split, **options)


def _rows(
    stage: str, ask: Callable[[Models], Figures], plan: Mapping[str, list[list[Models]]], listen: Listener
) -> tuple[FigureRow, ...]:
    total = sum(len(rounds) for seeds in plan.values() for rounds in seeds)
    listen(Event("start", stage))
    done = 0
    found: dict[str, list[Figures]] = {part: [] for part in plan}
    for part, seeds in plan.items():
        for rounds in seeds:
            found[part].append(_mean_of([ask(models) for models in rounds]))
            done += len(rounds)
            listen(Event("progress", stage, part, done, total))
    listen(Event("end", stage))
    return _summaries(found["distilled"], found["independent"])


def _plan(probe: Probe, networks: _Networks) -> dict[str, list[list[Models]]]:
    """Return the roles of every round by seed: of the distilled students, and of independent ones in their place."""
    needs_another = "independent" in probe.needs
    parts = {"distilled": networks.distilled, "independent": networks.alone}
    rounds = {
        part: [_rounds(networks, seed, student, needs_another=needs_another) for seed, student in enumerate(students)]
        for part, students in parts.items()
    }
    return {part: [of_seed for of_seed in seeds if of_seed] for part, seeds in rounds.items()}


def _rounds(networks: _Networks, seed: int, student: nn.Module, *, needs_another: bool) -> list[Models]:
    roles = {"teacher": networks.teacher, "student": student, "start": networks.starts[seed]}
    if networks.foreign is not None:
        roles["foreign"] = networks.foreign
    if not needs_another:
        return [roles]
    return [roles | {"independent": other} for other in networks.alone if other is not student]


def _mean_of(rounds: Sequence[Figures]) -> Figures:
    return {name: statistics.fmean(figures[name] for figures in rounds) for name in rounds[0]}


def _summaries(distilled: Sequence[Figures], independent: Sequence[Figures]) -> tuple[FigureRow, ...]:
    first = distilled[0]
    return tuple(
        FigureRow(
            name,
            Spread.of([figures[name] for figures in distilled]),
            Spread.of([figures[name] for figures in independent]) if independent else None,
            first.get(f"teacher.{name}"),
            first.get(f"chance.{name}"),
        )
        for name in first
        if name.partition(".")[0] not in _PREFIXES
    )
