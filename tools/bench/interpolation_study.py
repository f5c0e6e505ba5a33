"""Does a student that starts near its teacher's weights end nearer to it? Self-distillation on digits.

    python tools/bench/interpolation_study.py --seeds 3

Student and teacher have one architecture. A student starts at `lam * random + (1 - lam) * teacher`, its batch
normalisation re-estimated by one pass, and learns from the teacher's soft labels alone (T^2 times the KL divergence at
T = 4), learning rate scaled by `lam`. Agreement is measured before and after, on training and test data. The experiment
on initialisation of Stanton et al. 2021, arXiv 2106.05945, on a smaller scale. A row is one `lam` and seed.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from keep_result import RESULTS, clean_commit, cpu_name
from torch import nn

from edgekd.core import atomic
from edgekd.core.artifacts import NetSpec
from edgekd.core.seeds import derive_seed
from edgekd.data import AUGMENTATIONS, Batch, DataConfig, Dataset, load_dataset, train_batches
from edgekd.distill import Recipe, RunOptions, TrainSettings, fidelity, load_recipe, run_recipe
from edgekd.distill.probes import interpolated, with_new_statistics
from edgekd.models import build, spec_for

FIELDS = ("lam", "seed", "start_agreement", "train_agreement", "test_agreement", "test_kl", "test_accuracy")
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
LR = 0.05
SETTINGS = TrainSettings(
    epochs=20,
    batch_size=64,
    lr=LR,
    nesterov=True,
    weight_decay=1e-4,
    augment="shift",
    select="last",
    device="cpu",
    threads=1,
)
RECIPE = Recipe.model_validate(
    {
        "name": "soft-labels",
        "title": "Soft labels alone",
        "stages": [{"name": "student", "terms": [{"type": "kd", "temperature": 4.0}]}],
    }
)


def main() -> None:
    """Run the study and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    path = _result_path()
    dataset = load_dataset(DataConfig(name="digits"))
    spec, teacher = _teacher(dataset)
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        for seed in seeds:
            rows.append(_row(share, seed, spec, teacher, dataset))
            print(*rows[-1].values(), flush=True)
            atomic.write_text(path, _as_csv(rows))


def _teacher(dataset: Dataset) -> tuple[NetSpec, nn.Module]:
    facts = {"in_channels": 1, "num_classes": dataset.task.num_outputs, "resolution": dataset.resolution}
    spec = spec_for("resnet", depth=8, width=4, mean=dataset.mean, std=dataset.std, **facts)
    plain = load_recipe("plain")
    outcome = run_recipe(
        plain, student=spec, teacher=None, dataset=dataset, settings=SETTINGS, options=RunOptions(seed=1000)
    )
    return spec, outcome.student


def _row(share: float, seed: int, spec: NetSpec, teacher: nn.Module, dataset: Dataset) -> dict[str, Any]:
    torch.manual_seed(derive_seed(seed, "student"))
    start = interpolated(teacher, build(spec), share=share)
    start = with_new_statistics(start, (batch.inputs for batch in _batches(dataset, seed)))
    before = fidelity({"teacher": teacher, "student": start}, dataset.test)["agreement"]
    student = start if share == 0 else _distilled(start, (spec, teacher), dataset, lr=share * LR, seed=seed)
    roles = {"teacher": teacher, "student": student}
    on_train, on_test = (fidelity(roles, split) for split in (dataset.train, dataset.test))
    figures = (before, on_train["agreement"], on_test["agreement"], on_test["kl"], on_test["accuracy"])
    return dict(zip(FIELDS, (share, seed, *(f"{value:.4f}" for value in figures)), strict=True))


def _distilled(
    start: nn.Module, teacher: tuple[NetSpec, nn.Module], dataset: Dataset, *, lr: float, seed: int
) -> nn.Module:
    settings = SETTINGS.model_copy(update={"lr": lr})
    options = RunOptions(seed=seed, start=start.state_dict())
    return run_recipe(
        RECIPE, student=teacher[0], teacher=teacher, dataset=dataset, settings=settings, options=options
    ).student


def _batches(dataset: Dataset, seed: int) -> Iterator[Batch]:
    shift = AUGMENTATIONS["shift"]
    return train_batches(dataset.train, batch_size=SETTINGS.batch_size, epoch=0, seed=seed, augment=shift)


def _result_path() -> Path:
    version = torch.__version__.partition("+")[0]
    return RESULTS / f"interpolation-digits_cpu-{cpu_name()}_torch{version}_{clean_commit()}.csv"


def _as_csv(rows: Iterable[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


if __name__ == "__main__":
    main()
