"""What each distillation method is worth on one task: same students, batches and epochs, several seeds, last epoch.

    python tools/bench/methods.py --suite fashion-mnist --seeds 5 --jobs 2
    python tools/bench/methods.py --suite cifar100 --data packed/ --device cuda --slice-minutes 9

The suites (`tools/bench/suites.py`) say data, networks and settings. A pair's teacher is trained once, with seed 0, and
kept under `runs/methods`. Every method runs with the weights of its recipe, as published where there are such: nothing
is tuned here, and the test images are looked at once, by the student of the last epoch.

A row of the result file is one pair, method and seed. Rows that are there already are kept, and a training that was
interrupted goes on from its last state, so a study in slices (`--slice-minutes`) is the same as one in a piece. A
method that cannot be trained is a row with its error. Delete rows to run them again; `--into` continues a file made at
another commit.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from keep_result import RESULTS, ROOT, clean_commit, cpu_name
from suites import SUITES, StudyData, suite

from edgekd.core import atomic
from edgekd.core.digest import sha256_of_json

FIELDS = ("pair", "method", "seed", "val_accuracy", "test_accuracy", "seconds", "ms_per_step", "commit", "error")
TEACHER = "teacher"
CACHE = ROOT / "runs" / "methods"


@dataclass(frozen=True)
class Terms:
    """What all runs of a study have in common.

    Attributes:
        suite: Name of the suite.
        data: Path of the data, or None.
        device: `"cpu"` or `"cuda"`.
        epochs: In place of the suite's, for a trial; or None.
        limit: Training images in place of the suite's, for a trial; or None.
        commit: Of the code.
        compile: Mode of torch.compile on a GPU.
    """

    suite: str
    data: str | None
    device: str
    epochs: int | None
    limit: int | None
    commit: str
    compile: str = "default"


@dataclass(frozen=True)
class Job:
    """One row to be made; the method is a recipe or `"teacher"`."""

    pair: str
    method: str
    seed: int


def main() -> None:
    """Run what is missing."""
    arguments = _parser().parse_args()
    commit = arguments.commit or clean_commit()
    terms = Terms(
        arguments.suite,
        arguments.data,
        arguments.device,
        arguments.epochs,
        arguments.limit,
        commit,
        arguments.compile,
    )
    path = arguments.into or RESULTS / result_name(terms)
    stop_at = time.monotonic() + 60 * arguments.slice_minutes
    study(terms, wanted(arguments), path, jobs=arguments.jobs, stop_at=stop_at)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=sorted(SUITES), default="fashion-mnist")
    parser.add_argument("--methods", help="comma-separated recipes, wrapper+base or YAML files; the suite's")
    parser.add_argument("--pairs", help="comma-separated names of pairs; all of the suite")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to this, exclusive")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each on a CPU")
    parser.add_argument("--slice-minutes", type=float, default=math.inf, help="pause after so long; run again to go on")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", default="default", help="mode of torch.compile on a GPU; no for none")
    parser.add_argument("--data", help="path of the data set, where it has no default")
    parser.add_argument("--epochs", type=int, help="for a trial; the file's name says so")
    parser.add_argument("--limit", type=int, help="training images, for a trial; the file's name says so")
    parser.add_argument("--commit", help="of the code, where there is no git; HEAD")
    parser.add_argument("--into", type=Path, help="result file to go on with")
    return parser


def wanted(arguments: argparse.Namespace) -> list[Job]:
    """Return every row that the command line asks for, teachers first, then seed by seed."""
    from edgekd.distill import recipe_names

    chosen = suite(arguments.suite)
    pairs = arguments.pairs.split(",") if arguments.pairs else list(chosen.pairs)
    methods = arguments.methods.split(",") if arguments.methods else chosen.methods or recipe_names()
    teachers = [Job(pair, TEACHER, 0) for pair in pairs]
    return teachers + [
        Job(pair, method, seed) for seed in range(arguments.seeds) for pair in pairs for method in methods
    ]


def result_name(terms: Terms) -> str:
    """Return the file name that says task, device, versions and commit."""
    import torch

    trial = "".join(f"-{key}{value}" for key in ("epochs", "limit") if (value := getattr(terms, key)) is not None)
    device = f"cpu-{cpu_name()}" if terms.device == "cpu" else f"gpu-{_plain(torch.cuda.get_device_name())}-bf16"
    version = torch.__version__.partition("+")[0]
    return f"methods-{terms.suite}{trial}_{device}_torch{version}_{terms.commit}.csv"


def study(terms: Terms, jobs_wanted: Iterable[Job], path: Path, *, jobs: int, stop_at: float) -> None:
    """Make the rows that a result file lacks.

    Args:
        terms: What all runs have in common.
        jobs_wanted: Which rows there should be.
        path: The result file.
        jobs: Processes.
        stop_at: `time.monotonic()` after which nothing starts and what runs pauses at the end of its epoch.
    """
    rows = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    done = {Job(row["pair"], row["method"], int(row["seed"])) for row in rows}
    missing = [job for job in jobs_wanted if job not in done]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for teachers_first in (True, False):
            batch = [job for job in missing if (job.method == TEACHER) == teachers_first]
            for row in _finished(pool, terms, batch, room=jobs, stop_at=stop_at):
                rows.append(row)
                print(*(row[key] for key in ("pair", "method", "seed", "test_accuracy", "error")), flush=True)
                atomic.write_text(path, as_csv(rows))
    left = sum(job not in {Job(row["pair"], row["method"], int(row["seed"])) for row in rows} for job in missing)
    print(f"{path}: {len(rows)} rows, {left} to go", file=sys.stderr)


def _finished(
    pool: ProcessPoolExecutor, terms: Terms, batch: list[Job], *, room: int, stop_at: float
) -> Iterator[dict[str, Any]]:
    waiting, running = list(batch), set[Future[dict[str, Any] | None]]()
    while waiting or running:
        while waiting and len(running) < room and time.monotonic() < stop_at:
            running.add(pool.submit(trained, terms, waiting.pop(0), stop_at))
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from (row for future in done if (row := future.result()) is not None)


def trained(terms: Terms, job: Job, stop_at: float) -> dict[str, Any] | None:
    """Train one network and judge it; what a method raises is its result.

    Args:
        terms: What all runs have in common.
        job: Which row.
        stop_at: `time.monotonic()` after which it pauses.

    Returns:
        The row, or None when training paused.
    """
    from edgekd.distill import Paused

    row: dict[str, Any] = dict.fromkeys(FIELDS, "")
    row.update(pair=job.pair, method=job.method, seed=job.seed, commit=terms.commit)
    try:
        row.update(_outcome(terms, job, stop_at))
    except Paused:
        return None
    except Exception as error:  # a study of fifty methods goes on when one of them fails
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return row


def _outcome(terms: Terms, job: Job, stop_at: float) -> dict[str, str]:
    from edgekd.distill import RunOptions, load_recipe, run_recipe

    data, settings = _data(terms), _settings(terms)
    teacher = _teacher(terms, job.pair, stop_at)
    if job.method == TEACHER:
        return _judged(data, teacher[1])
    outcome = run_recipe(
        load_recipe(job.method),
        student=_spec(terms, suite(terms.suite).pairs[job.pair][1]),
        teacher=teacher,
        dataset=data.dataset,
        settings=settings,
        options=RunOptions(seed=job.seed, resume=_resumption(terms, job, stop_at)),
    )
    last = outcome.history[-1].stage
    fastest = min(epoch.seconds for epoch in outcome.history if epoch.stage == last)
    steps = max(1, len(data.dataset.train) // settings.batch_size)
    return {
        **_judged(data, outcome.student),
        "seconds": f"{sum(epoch.seconds for epoch in outcome.history):.1f}",
        "ms_per_step": f"{1000 * fastest / steps:.2f}",
    }


def _judged(data: StudyData, module: Any) -> dict[str, str]:
    from edgekd.distill import evaluate

    val = "" if data.val is None else f"{evaluate(module, data.val).score:.4f}"
    return {"val_accuracy": val, "test_accuracy": f"{evaluate(module, data.dataset.test).score:.4f}"}


@cache
def _data(terms: Terms) -> StudyData:
    import torch

    torch.set_num_threads(1)
    return suite(terms.suite).load(terms.data, terms.limit)


def _settings(terms: Terms) -> Any:
    changes: dict[str, Any] = {"device": terms.device, "threads": 1}
    if terms.epochs is not None:
        changes["epochs"] = terms.epochs
    if terms.device == "cuda":
        changes.update(precision="bf16", resident=True, channels_last=True, compile=terms.compile)
    return suite(terms.suite).settings.model_copy(update=changes)


def _resumption(terms: Terms, job: Job, stop_at: float) -> Any:
    from edgekd.distill import Resumption

    name = _plain("-".join([terms.suite, job.pair, Path(job.method).stem, str(job.seed)]))
    key = sha256_of_json([asdict(terms), asdict(job)])[:16]
    return Resumption(CACHE / "states" / f"{name}-{key}.safetensors", stop_at)


def _spec(terms: Terms, net: str) -> Any:
    from edgekd.models import parse_net, spec_for

    family, choice = parse_net(net)
    dataset = _data(terms).dataset
    return spec_for(
        family,
        **choice,
        in_channels=dataset.in_channels,
        num_classes=dataset.task.num_outputs,
        resolution=dataset.resolution,
        mean=dataset.mean,
        std=dataset.std,
    )


def _teacher(terms: Terms, pair: str, stop_at: float = math.inf) -> tuple[Any, Any]:
    """Return a pair's teacher, trained where it is not there yet."""
    from edgekd.distill import RunOptions, load_recipe, run_recipe
    from edgekd.models import build, load_weights, save_weights

    dataset, chosen = _data(terms).dataset, suite(terms.suite)
    spec = _spec(terms, chosen.pairs[pair][0])
    settings = _settings(terms)
    if terms.epochs is None:
        settings = settings.model_copy(update={"epochs": chosen.teacher_epochs})
    key = sha256_of_json([spec.digest, settings.model_dump(mode="json"), dataset.digest])[:16]
    path = CACHE / f"{terms.suite}-{_plain(spec.name)}-{key}.safetensors"
    module = build(spec)
    if path.exists():
        load_weights(module, path)
        return spec, module.eval().requires_grad_(False)
    outcome = run_recipe(
        load_recipe("plain"),
        student=spec,
        teacher=None,
        dataset=dataset,
        settings=settings,
        options=RunOptions(seed=0, resume=_resumption(terms, Job(pair, TEACHER, 0), stop_at)),
    )
    save_weights(outcome.student, path, {"net": spec.name})
    return spec, outcome.student


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV, ordered by pair, method and seed."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["pair"], row["method"], int(row["seed"]))))
    return stream.getvalue()


if __name__ == "__main__":
    main()
