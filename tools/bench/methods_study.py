"""Every recipe on one small task, the same students, batches and epochs: what a method does there, not in general.

    python tools/bench/methods_study.py --seeds 5 --jobs 2

The task is the demo's: digits, a ResNet-20 teacher, a ResNet-8 student of width 2, the preset's settings. A row is one
method and seed; rows that the result file of this commit already has are kept, so an interrupted study goes on.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from keep_result import RESULTS, clean_commit, cpu_name

from edgekd.core import atomic

FIELDS = ("method", "seed", "val_accuracy", "test_accuracy", "seconds")


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    path = _result_path()
    rows = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    done = {(row["method"], int(row["seed"])) for row in rows}
    from edgekd.distill import recipe_names

    wanted = [(name, seed) for seed in range(arguments.seeds) for name in recipe_names() if (name, seed) not in done]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(_trained, wanted):
            rows.append(row)
            print(row["method"], row["seed"], row["test_accuracy"], flush=True)
            atomic.write_text(path, _as_csv(rows))


def _result_path() -> Path:
    import torch

    version = torch.__version__.partition("+")[0]
    return RESULTS / f"methods-digits_cpu-{cpu_name()}_torch{version}_{clean_commit()}.csv"


def _trained(task: tuple[str, int]) -> dict[str, Any]:
    from edgekd.distill import RunOptions, evaluate, load_recipe, run_recipe

    method, seed = task
    dataset, settings, student, teacher = _setting()
    started = time.perf_counter()
    outcome = run_recipe(
        load_recipe(method),
        student=student,
        teacher=teacher,
        dataset=dataset,
        settings=settings,
        options=RunOptions(seed=seed),
    )
    seconds = time.perf_counter() - started
    val, test = (evaluate(outcome.student, split).score for split in (dataset.val, dataset.test))
    values = (method, seed, f"{val:.4f}", f"{test:.4f}", f"{seconds:.1f}")
    return dict(zip(FIELDS, values, strict=True))


@cache
def _setting() -> tuple[Any, ...]:
    import torch

    from edgekd.data import load_dataset
    from edgekd.distill import RunOptions, load_recipe, run_recipe
    from edgekd.models import parse_net, spec_for
    from edgekd.pipeline.config import load_config

    torch.set_num_threads(1)
    config = load_config(None, flags={}, overrides=[])
    dataset = load_dataset(config.data)
    facts = {
        "in_channels": dataset.in_channels,
        "num_classes": dataset.num_classes,
        "resolution": dataset.resolution,
        "mean": dataset.mean,
        "std": dataset.std,
    }
    family, choice = parse_net(config.teacher.net)
    teacher = spec_for(family, **choice, **facts)
    student = spec_for(config.student.family, depth=8, width=2, **facts)
    taught = run_recipe(
        load_recipe("plain"),
        student=teacher,
        teacher=None,
        dataset=dataset,
        settings=config.train,
        options=RunOptions(seed=0),
    )
    return dataset, config.train, student, (teacher, taught.student)


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (row["method"], int(row["seed"]))))
    return stream.getvalue()


if __name__ == "__main__":
    main()
