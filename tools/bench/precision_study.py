"""What int8 costs and what wins it back: int8 after training by each calibrator, layer by layer, and trained for.

    python tools/bench/precision_study.py --data fashion-mnist --minutes 60     # again, to go on where it stopped

One row is one way of one student: the score on the test split, which nothing was chosen on. All ways of a student come
from one run of `edgekd distill`, so they share its weights; int8 is in TensorRT's form (Q/DQ) and is computed as the
graph is written, by ONNX Runtime. `int8-layers` is compared on the held-out split, where it was chosen, in `val_score`.
Depthwise separable networks are there because int8 harms them most.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from keep_result import ROOT, clean_commit, cpu_name

from edgekd.core.artifacts import OnnxModel, from_json
from edgekd.core.errors import EdgeKDError
from edgekd.data import Split, load_dataset
from edgekd.models import parse_net
from edgekd.pipeline.config import RunConfig, load_config
from edgekd.pipeline.ledger import read_results
from edgekd.pipeline.run import RunRequest, distill
from edgekd.pipeline.scoring import score_here
from edgekd.precision import Calibrator, drawn_calibration, to_int8

RESULTS = ROOT / "tools" / "bench" / "results"
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {
        "data": {"name": "digits"},
        "teacher": {"net": "resnet20-w16", "epochs": 30},
        "train": {"epochs": 30},
    },
    "fashion-mnist": {
        "data": {"name": "fashion-mnist", "resolution": 14, "val_fraction": 0.25, "limit": 8000},
        "teacher": {"net": "resnet14-w16", "epochs": 20},
        "train": {"epochs": 20, "augment": "shift", "lr": 0.05},
    },
}
STUDENTS = {
    "digits": ("resnet8-w2", "mobilenetv2:depth=7,width=4"),
    "fashion-mnist": ("resnet8-w4", "mobilenetv2:depth=7,width=8"),
}


@dataclass(frozen=True)
class Row:
    """One way of one student.

    Attributes:
        data: Data set.
        student: Network.
        seed: Of the run.
        way: `"fp32"`, `"fp16"`, `"int8 CALIBRATOR"`, `"int8-layers"` or `"int8-qat"`.
        val_score: On the held-out split.
        test_score: On the test split; empty with an error.
        error: Why there is no model.
        commit: Of the code.
    """

    data: str
    student: str
    seed: int
    way: str
    val_score: str
    test_score: str
    error: str
    commit: str


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SETTINGS), nargs="+", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e6, help="after which no run begins")
    parser.add_argument("--epochs", type=int, help="of everything, for a trial")
    parser.add_argument("--into", type=Path, help="result file; one under tools/bench/results")
    arguments = parser.parse_args()
    commit = clean_commit() if arguments.epochs is None else "trial"
    path = arguments.into or _named(commit)
    stop_at = time.monotonic() + 60 * arguments.minutes
    done = {(row.data, row.student, row.seed) for row in read(path)}
    wanted = [
        (data, student, seed)
        for seed in range(arguments.seeds)
        for data in arguments.data
        for student in STUDENTS[data]
    ]
    for job in wanted:
        if job in done:
            continue
        if time.monotonic() > stop_at:
            print(f"paused; {path} holds what there is")
            return
        _append(path, list(rows_of(*job, commit=commit, epochs=arguments.epochs)))
    print(path)


def rows_of(data: str, student: str, seed: int, *, commit: str, epochs: int | None) -> Iterator[Row]:
    """Train one student by the default method and score it in every way.

    Args:
        data: Key of `SETTINGS`.
        student: Network.
        seed: Of data, teacher and student.
        commit: Of the code.
        epochs: Of everything, for a trial.
    """
    config = _config(data, student, seed, epochs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        distill(config, RunRequest(folder, "precision_study"))
        models, refused = _models(read_results(folder)["precision"])
        dataset = load_dataset(config.data)
        calibration = drawn_calibration(dataset, size=config.calibration_size, seed=config.data.seed)
        for calibrator in get_args(Calibrator):
            way, file = f"int8 {calibrator}", Path(scratch) / f"{calibrator}.onnx"
            try:
                models[way] = to_int8(
                    models["fp32"], file, flavour="tensorrt", calibration=calibration, calibrator=calibrator
                )
            except EdgeKDError as error:
                refused[way] = str(error)
        for way, model in models.items():
            val, test = (_score(model, split, Path(scratch) / "engine") for split in (dataset.val, dataset.test))
            yield Row(data, student, seed, way, f"{val:.5f}", f"{test:.5f}", "", commit)
        for way, why in refused.items():
            yield Row(data, student, seed, way, "", "", why.splitlines()[0][:200], commit)


def _config(data: str, student: str, seed: int, epochs: int | None) -> RunConfig:
    settings = json.loads(json.dumps(SETTINGS[data]))
    if epochs is not None:
        settings["train"]["epochs"] = settings["teacher"]["epochs"] = epochs
    settings["data"]["seed"] = seed
    family, choice = parse_net(student)
    flags = settings | {
        "method": "kd",
        "student": {
            "family": family,
            "depths": [choice["depth"]],
            "widths": [choice["width"]],
            "max_share": 1.0,
        },
        "target": "jetson-orin",
        "seeds": 1,
        "compare_alone": False,
        "also_build": [],
        "precision": {"per_layer": True, "qat": True, **({"qat_epochs": epochs} if epochs else {})},
    }
    return load_config(None, flags=flags, overrides=[])


def _models(result: Mapping[str, Any]) -> tuple[dict[str, OnnxModel], dict[str, str]]:
    """Return the models that a run made, by way, and why others are missing."""
    ways = ("fp32", "fp16", "int8-layers", "int8-qat")
    models = {way: from_json(OnnxModel, result["models"][way]) for way in ways if way in result["models"]}
    why = {"int8-layers": f"no mixture: {result['layers']['reason']}", "int8-qat": "not made"}
    return models, {way: why[way] for way in ways if way not in models}


def _score(model: OnnxModel, split: Split, folder: Path) -> float:
    return score_here(model, split, folder, threads=1)


def read(path: Path) -> list[Row]:
    """Return the rows of a result file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**row | {"seed": int(row["seed"])}) for row in csv.DictReader(file)]


def _append(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _named(commit: str) -> Path:
    version = metadata.version("torch").partition("+")[0]
    return RESULTS / f"precision_cpu-{cpu_name()}_torch{version}_{commit}.csv"


if __name__ == "__main__":
    main()
