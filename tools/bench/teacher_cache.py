"""Times epochs of plain training, of distillation from a live teacher, and of distillation from the teacher cache.

    python tools/bench/teacher_cache.py --data cifar10_small.zip --teacher resnet56.th

All train the same student with the same augmentation, one after the other in turns, so that what else the machine does
falls on all. Times are of the steps of the second epoch, which shows another view than the first and so begins by
reading that from the disk; evaluations are left out. Ratios are to the plain epoch of the same turn; a method's own
losses and adapters are in them. `recall_share_of_plain` is what of the cached epoch is spent in the cache alone.
Processor time is given beside the clock's: on a machine that others use too it is the steadier of the two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from keep_result import RESULTS, clean_commit, cpu_name

from edgekd.core.artifacts import NetSpec
from edgekd.data import DataConfig, Dataset, load_dataset
from edgekd.distill import RunOptions, TrainSettings, load_recipe, run_recipe
from edgekd.distill.epochs import EpochRunner
from edgekd.distill.roles import Given
from edgekd.distill.teacher_cache import entries
from edgekd.distill.teacher_cache.recall import Recall
from edgekd.distill.teacher_cache.rows import Shelf, ViewRows
from edgekd.models import load_teacher

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
METHODS = ("kd", "fitnet")


@dataclass(frozen=True)
class Case:
    """One kind of training.

    Attributes:
        method: Recipe.
        is_cached: Whether teacher outputs are read.
    """

    method: str
    is_cached: bool = False

    @property
    def name(self) -> str:
        """What it is called in the result."""
        return self.method if self.method == "plain" else f"{self.method} {'cached' if self.is_cached else 'live'}"


@dataclass(frozen=True)
class Seconds:
    """What the steps of an epoch took.

    Attributes:
        wall: By the clock.
        cpu: Of the processor.
        recall: Of the processor, in reading teacher outputs.
    """

    wall: float
    cpu: float
    recall: float


@contextmanager
def timed_epochs() -> Iterator[list[Seconds]]:
    """Collect what the steps of every epoch take."""
    run, recall, recalling = EpochRunner.run, Recall.__call__, [0.0]
    seconds: list[Seconds] = []

    def timing(self: EpochRunner, *arguments: Any) -> Any:
        recalling[0] = 0.0
        began = time.perf_counter(), time.process_time()
        result = run(self, *arguments)
        seconds.append(Seconds(time.perf_counter() - began[0], time.process_time() - began[1], recalling[0]))
        return result

    def timing_recall(self: Recall, *arguments: Any) -> Any:
        began = time.process_time()
        result = recall(self, *arguments)
        recalling[0] += time.process_time() - began
        return result

    EpochRunner.run, Recall.__call__ = timing, timing_recall  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        EpochRunner.run, Recall.__call__ = run, recall  # type: ignore[method-assign]


def epoch_s(case: Case, dataset: Dataset, teacher: Given, cache: Path, seed: int = 0) -> Seconds:
    """Return what the steps of the second epoch took."""
    student = NetSpec("resnet", 8, 16, 32, 3, 10, dataset.mean, dataset.std)
    views = {"teacher_cache": str(cache)} if case.is_cached else {}
    # Plain training is what it is without any of this: changes drawn by step.
    if case.method != "plain":
        views |= {"augment_views": 2, "augment_seed": 0}
    settings = TrainSettings(
        epochs=2, batch_size=64, lr=0.01, augment="crop-flip", device="cpu", threads=1, select="last", **views
    )
    with timed_epochs() as seconds:
        run_recipe(
            load_recipe(case.method),
            student=student,
            teacher=None if case.method == "plain" else teacher,
            dataset=dataset,
            settings=settings,
            options=RunOptions(seed=seed),
        )
    return seconds[1]


def measured(dataset: Dataset, teacher: Given, cache: Path, *, repeats: int, live_repeats: int) -> dict[str, Any]:
    """Take turns; returns by case images a second and the ratio to plain training."""
    for method in METHODS:
        epoch_s(Case(method, is_cached=True), dataset, teacher, cache)
    fast = [Case("plain"), *(Case(method, is_cached=True) for method in METHODS)]
    slow = [Case("plain"), *(Case(method) for method in METHODS)]
    found = _turns(fast, repeats, dataset, teacher, cache)
    live = _turns(slow, live_repeats, dataset, teacher, cache)
    rows = len(dataset.train) // 64 * 64
    return {name: _summary(pairs, rows) for name, pairs in {**live, **found}.items()}


def _turns(
    cases: list[Case], repeats: int, dataset: Dataset, teacher: Given, cache: Path
) -> dict[str, list[tuple[Seconds, Seconds]]]:
    found: dict[str, list[tuple[Seconds, Seconds]]] = {case.name: [] for case in cases}
    for repeat in range(repeats):
        # Each turn begins with another case.
        turn = [*cases[repeat % len(cases) :], *cases[: repeat % len(cases)]]
        seconds = {case.name: epoch_s(case, dataset, teacher, cache, seed=repeat) for case in turn}
        for name, one in seconds.items():
            found[name].append((one, seconds["plain"]))
        print(
            repeat,
            {name: f"{one.wall:.2f} s, {one.cpu:.2f} s, {one.recall:.3f} s" for name, one in seconds.items()},
            flush=True,
        )
    return found


def _summary(pairs: list[tuple[Seconds, Seconds]], rows: int) -> dict[str, Any]:
    summary: dict[str, Any] = {"repeats": len(pairs)}
    shares = [one.recall / plain.cpu for one, plain in pairs]
    summary["recall_share_of_plain"] = {
        "median": round(statistics.median(shares), 4),
        "min": round(min(shares), 4),
        "max": round(max(shares), 4),
    }
    for clock in ("wall", "cpu"):
        ratios = [getattr(one, clock) / getattr(plain, clock) for one, plain in pairs]
        seconds = statistics.median(getattr(one, clock) for one, _ in pairs)
        summary[clock] = {
            "epoch_s": round(seconds, 3),
            "images_per_s": round(rows / seconds, 1),
            "ratio_to_plain": {
                "median": round(statistics.median(ratios), 4),
                "min": round(min(ratios), 4),
                "max": round(max(ratios), 4),
            },
        }
    return summary


def storage(cache: Path, rows: int) -> dict[str, Any]:
    """Return, for the first view of each part, its bytes, and what reading all of it takes with zstd and without."""
    (entry,) = entries(cache)
    found = {}
    for part in entry.parts:
        folder = entry.folder / part / "view-00000"
        blocks = list(folder.glob("*.zst"))
        row_bytes = _row_bytes(blocks[0])
        label = "/".join(folder.parts[-3:])

        def load(folder: Path = folder, label: str = label, row_bytes: int = row_bytes) -> ViewRows:
            view = ViewRows(Shelf(folder, label, rows, row_bytes, print, print))
            view.load()
            return view

        table = load().take(np.arange(rows))
        raw = cache / "raw"
        raw.write_bytes(table.tobytes())
        found[part] = {
            "row_bytes": row_bytes,
            "raw_bytes": table.nbytes,
            "disk_bytes": sum(block.stat().st_size for block in blocks),
            "blocks": len(blocks),
            "read_zstd_ms": _ms(load),
            "read_raw_ms": _ms(lambda raw=raw: np.fromfile(raw, dtype=np.uint8)),  # type: ignore[misc]
        }
        raw.unlink()
    return found


def _row_bytes(block: Path) -> int:
    content = block.read_bytes()
    length = int.from_bytes(content[8:12], "little")
    return int(json.loads(content[12 : 12 + length])["row_bytes"])


def _ms(work: Any) -> float:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(1000 * statistics.median(seconds), 2)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10 as strips")
    parser.add_argument("--teacher", type=Path, required=True, help="weights of a ResNet-56")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--live-repeats", type=int, default=2)
    parser.add_argument("--limit", type=int, help="training rows")
    arguments = parser.parse_args()
    commit = clean_commit()
    dataset = load_dataset(DataConfig(name="cifar-strips", path=arguments.data, limit=arguments.limit))
    spec, net = load_teacher(
        "resnet56", in_channels=3, num_classes=10, resolution=32, weights=arguments.teacher, **IMAGENET
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        times = measured(
            dataset, (spec, net.eval()), cache, repeats=arguments.repeats, live_repeats=arguments.live_repeats
        )
        result = {
            "teacher": "resnet56-w16, trained",
            "student": "resnet8-w16",
            "data": f"CIFAR-10, {len(dataset.train)} training pictures, batches of 64, crop-flip, 2 views",
            "threads": 1,
            "torch": torch.__version__,
            "zstandard": zstandard.__version__,
            "commit": commit,
            "seconds": "of the steps of one epoch; ratios are to the plain epoch of the same turn",
            "epochs": times,
            "one_view_on_disk": storage(cache, len(dataset.train)),
        }
    path = RESULTS / f"teacher-cache_cpu-{cpu_name()}_torch{torch.__version__.partition('+')[0]}_{commit}.json"
    for older in RESULTS.glob("teacher-cache_cpu-*.json"):
        older.unlink()
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
