"""Does a student learn from its teacher about a domain that it never sees? Grey digits, and digits in colour.

    python tools/bench/domain_gift.py --seeds 5

A teacher is trained on grey digits (D1) and on the same digits in white on backgrounds of random colour (D2). Students
of the same architecture learn on D1 alone: without the teacher, by soft labels (0.1 CE + 0.9 KD at temperature 8), by a
hint on the last map (CE + squared difference, summed over the map's 128 values; `hint-mean` averages them). What they
score on the test digits of D2 is the gift. Weights follow Ojha et al. 2023, arXiv 2205.16004, which used MNIST and a
plain network; here it is a ResNet-8, and the hint goes through a 1x1 projection with batch normalisation. A row is one
method and seed, every seed with its own teacher.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from keep_result import RESULTS, clean_commit, cpu_name
from torch import nn

from edgekd.core import atomic
from edgekd.core.artifacts import NetSpec
from edgekd.core.seeds import derive_seed
from edgekd.data import ArrayImages, DataConfig, Dataset, Split, load_dataset
from edgekd.data.statistics import channel_statistics
from edgekd.distill import PROBES, Recipe, RunOptions, TrainSettings, evaluate, run_recipe
from edgekd.models import spec_for

FIELDS = ("method", "seed", "grey_accuracy", "colour_accuracy", "colour_agreement", "colour_iou")
SETTINGS = TrainSettings(epochs=30, batch_size=64, lr=0.05, schedule="cosine", augment="shift", device="cpu", threads=1)
TEACHER_SEED = 1000
METHODS: dict[str, tuple[dict[str, Any], ...]] = {
    "independent": ({"type": "cross-entropy"},),
    "kl": ({"type": "cross-entropy", "weight": 0.1}, {"type": "kd", "weight": 0.9, "temperature": 8.0}),
    "hint": ({"type": "cross-entropy"}, {"type": "fitnet", "pairs": "last", "weight": 128.0}),
    "hint-mean": ({"type": "cross-entropy"}, {"type": "fitnet", "pairs": "last", "weight": 1.0}),
}


def main() -> None:
    """Run the study and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    path = _result_path()
    grey, colour = _domains()
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for row in _rows_of(seed, grey, colour):
            print(*row.values(), flush=True)
            rows.append(row)
        atomic.write_text(path, _as_csv(rows))
    for method in ("teacher", *METHODS):
        found = [100 * float(row["colour_accuracy"]) for row in rows if row["method"] == method]
        spread = f" +- {stdev(found):.1f}" if len(found) > 1 else ""
        print(f"{method}: {fmean(found):.1f}{spread} % on colour")


def in_colour(split: Split, *, seed: int) -> Split:
    """Return pictures in white on a background of one random colour each, instead of white on black."""
    grey = _pixels(split)[..., :1] / 255
    backgrounds = np.random.default_rng(seed).random((len(split), 1, 1, 3))
    mixed = grey + (1 - grey) * backgrounds
    return Split(ArrayImages(np.rint(255 * mixed).astype(np.uint8)), split.labels, split.task)


def _domains() -> tuple[Dataset, Dataset]:
    digits = load_dataset(DataConfig(name="digits"))
    names = ("train", "val", "test")
    grey = {
        name: Split(ArrayImages(np.repeat(_pixels(split), 3, axis=3)), split.labels, split.task)
        for name, split in ((name, getattr(digits, name)) for name in names)
    }
    colour = {name: in_colour(split, seed=derive_seed(0, "colour", name)) for name, split in grey.items()}
    return _dataset("grey", grey), _dataset("colour", colour)


def _pixels(split: Split) -> np.ndarray:
    return split.inputs.gather(np.arange(len(split), dtype=np.int64))


def _dataset(name: str, splits: dict[str, Split]) -> Dataset:
    statistics = channel_statistics(splits["train"].inputs)
    return Dataset(name, **splits, mean=statistics.mean, std=statistics.std, digest=name)


def _both(grey: Dataset, colour: Dataset) -> Dataset:
    pairs = {name: (getattr(grey, name), getattr(colour, name)) for name in ("train", "val", "test")}
    joined = {
        name: Split(
            ArrayImages(np.concatenate([_pixels(one), _pixels(other)])),
            np.concatenate([one.labels, other.labels]),
            one.task,
        )
        for name, (one, other) in pairs.items()
    }
    return _dataset("grey-and-colour", joined)


def _rows_of(seed: int, grey: Dataset, colour: Dataset) -> Iterable[dict[str, Any]]:
    both = _both(grey, colour)
    spec = _spec(both)
    teacher = _trained(METHODS["independent"], spec, both, None, TEACHER_SEED + seed)
    yield _row("teacher", seed, teacher, teacher, (grey, colour))
    for method, terms in METHODS.items():
        given = None if method == "independent" else (spec, teacher)
        student = _trained(terms, _spec(grey), grey, given, seed)
        yield _row(method, seed, student, teacher, (grey, colour))


def _spec(dataset: Dataset) -> NetSpec:
    facts = {"in_channels": 3, "num_classes": dataset.task.num_outputs, "resolution": dataset.resolution}
    return spec_for("resnet", depth=8, width=8, mean=dataset.mean, std=dataset.std, **facts)


def _trained(
    terms: tuple[dict[str, Any], ...],
    spec: NetSpec,
    dataset: Dataset,
    teacher: tuple[NetSpec, nn.Module] | None,
    seed: int,
) -> nn.Module:
    stage = {"name": "student", "terms": terms} | ({} if teacher else {"source": {"type": "self"}})
    recipe = Recipe.model_validate({"name": "gift", "title": "Domain gift", "stages": [stage]})
    outcome = run_recipe(
        recipe, student=spec, teacher=teacher, dataset=dataset, settings=SETTINGS, options=RunOptions(seed=seed)
    )
    return outcome.student


def _row(
    method: str, seed: int, student: nn.Module, teacher: nn.Module, domains: tuple[Dataset, Dataset]
) -> dict[str, Any]:
    roles = {"teacher": teacher, "student": student}
    grey, colour = domains
    figures = (
        evaluate(student, grey.test).score,
        evaluate(student, colour.test).score,
        PROBES["consensus"](roles, colour.test, domains=("as-is",))["as-is"],
        PROBES["boundary"](roles, colour.test)["iou"],
    )
    return dict(zip(FIELDS, (method, seed, *(f"{value:.4f}" for value in figures)), strict=True))


def _result_path() -> Path:
    version = torch.__version__.partition("+")[0]
    return RESULTS / f"domain-gift-digits_cpu-{cpu_name()}_torch{version}_{clean_commit()}.csv"


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


if __name__ == "__main__":
    main()
