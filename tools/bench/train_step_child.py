"""One engine on one method, timed; started by `train_step.py`, prints one line of JSON.

python tools/bench/train_step_child.py ENGINE METHOD PAIR BATCH STEPS PEERS DEVICE
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CLASSES, IMAGES, SIDE = 100, 20_000, 32
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
PAIRS = {
    "resnet56-resnet20": ("resnet:depth=56,width=16,shortcut=B", "resnet:depth=20,width=16,shortcut=B"),
    "resnet32x4-resnet8x4": (
        "resnet:depth=32,width=64,stem=half,shortcut=B",
        "resnet:depth=8,width=64,stem=half,shortcut=B",
    ),
}
_WARM_UP = 3


class Enough(Exception):
    """All the steps that were wanted are timed."""


@dataclass
class Clock:
    """Notes when each batch is begun, and ends the run after enough of them.

    Attributes:
        steps: Steps to time, behind those that warm up.
        skipped: Steps before those.
        stamps: Seconds.
    """

    steps: int
    skipped: int = 0
    stamps: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """Note the start of a batch; raises `Enough` when the last step that counts is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())
        if len(self.stamps) > self.skipped + _WARM_UP + self.steps:
            raise Enough

    @property
    def step_ms(self) -> float:
        """Median step in milliseconds."""
        spans = np.diff(self.stamps[self.skipped + _WARM_UP :])
        return 1000 * float(statistics.median(spans))


@dataclass(frozen=True)
class Task:
    """What every engine trains on.

    Attributes:
        method: The distillation method.
        pair: Names of teacher and student.
        batch: Pictures in a step.
        device: Where.
        clock: Told of every batch.
        pixels: uint8 `[N, H, W, C]`.
        labels: int64 `[N]`.
    """

    method: str
    pair: str
    batch: int
    device: str
    clock: Clock
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]


def main() -> None:
    """Time the engine that the arguments name."""
    engine, method, pair, batch, steps, peers, device = sys.argv[1:]
    pixels, labels = _drawn(IMAGES)
    task = Task(method, pair, int(batch), device, Clock(int(steps)), pixels, labels)
    torch.manual_seed(0)
    run = _OWN.get(engine)
    if run is None:
        import train_step_peers

        run = train_step_peers.engine(engine, Path(peers))
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        run(task)
    except Enough:
        pass
    finally:
        sys.stdout = stdout
    print(json.dumps({"step_ms": round(task.clock.step_ms, 3), "peak_mb": round(_peak_mb(), 1)}))


def pictures(count: int) -> Any:
    """Return so many labelled pictures of noise as a split."""
    from edgekd.data import ArrayImages, Split
    from edgekd.data.task import Task as Kind

    pixels, labels = _drawn(count)
    return Split(ArrayImages(pixels), labels, Kind("classification", tuple(str(label) for label in range(CLASSES))))


def _drawn(count: int) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.int64]]]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    return pixels, np.arange(count, dtype=np.int64) % CLASSES


def network(name: str) -> nn.Module:
    """Return one of edgekd's networks for these pictures, by its name in edgekd."""
    from edgekd.models import build

    return build(spec_of(name))


def settled(net: nn.Module) -> nn.Module:
    """Return a frozen network whose normalisation has seen pictures: one that never did answers in millions."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.rand(64, 3, SIDE, SIDE))
    return net.eval().requires_grad_(False)


def run_bare(task: Task) -> None:
    """Both networks, cross-entropy and an optimiser, by hand."""
    teacher, student = (network(name) for name in PAIRS[task.pair])
    settled(teacher).to(task.device)
    student.to(task.device)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    pictures = torch.rand(task.batch, 3, SIDE, SIDE, device=task.device)
    labels = torch.arange(task.batch, device=task.device) % CLASSES
    while True:
        task.clock.tick()
        with torch.no_grad():
            teacher(pictures)
        F.cross_entropy(student(pictures), labels).backward()
        optimiser.step()
        optimiser.zero_grad()


def run_edgekd(task: Task) -> None:
    """The loop of edgekd with its defaults."""
    _run_edgekd(task, {})


def run_edgekd_channels_last(task: Task) -> None:
    """The loop of edgekd, maps laid out channels last."""
    _run_edgekd(task, {"channels_last": True})


def run_edgekd_compiled(task: Task) -> None:
    """The loop of edgekd, networks compiled and maps laid out channels last; in bf16 on a GPU."""
    precision = "bf16" if task.device == "cuda" else "no"
    _run_edgekd(task, {"compile": "default", "channels_last": True, "precision": precision})


def run_edgekd_cached(task: Task) -> None:
    """The loop of edgekd in its second epoch, which reads what the teacher said to the same pictures in the first."""
    task.clock.skipped = _WARM_UP + task.clock.steps + 1
    with tempfile.TemporaryDirectory() as cache:
        changes = {"teacher_cache": cache, "augment_views": 1}
        _run_edgekd(task, changes, images=task.clock.skipped * task.batch)


def _run_edgekd(task: Task, changes: dict[str, Any], images: int = IMAGES) -> None:
    from edgekd.data import Dataset, augmentation
    from edgekd.data.augment import AUGMENTATIONS
    from edgekd.distill import RunOptions, TrainSettings, load_recipe, run_recipe
    from edgekd.models import build

    change: Any = augmentation("crop-flip")

    class Ticking:
        def __call__(self, inputs: Any, labels: Any, rng: np.random.Generator) -> Any:
            task.clock.tick()
            return change(inputs, labels, rng)

        def part(self, inputs: Any, labels: Any, rng: np.random.Generator, *, rows: slice, of: int) -> Any:
            task.clock.tick()
            return change.part(inputs, labels, rng, rows=rows, of=of)

    AUGMENTATIONS.add("ticking", Ticking())
    teacher, student = (spec_of(name) for name in PAIRS[task.pair])
    settings = TrainSettings(epochs=240, batch_size=task.batch, device=task.device, augment="ticking", **changes)
    run_recipe(
        load_recipe(task.method),
        student=student,
        teacher=(teacher, settled(build(teacher))),
        dataset=Dataset("random", pictures(images), pictures(CLASSES), pictures(CLASSES), MEAN, STD, digest="random"),
        settings=settings,
        options=RunOptions(),
    )


def spec_of(name: str) -> Any:
    """Return the architecture of one of edgekd's networks for these pictures."""
    from edgekd.models import parse_net, spec_for

    family, choice = parse_net(name)
    return spec_for(family, **choice, in_channels=3, num_classes=CLASSES, resolution=SIDE, mean=MEAN, std=STD)


def _peak_mb() -> float:
    """Return the most memory that this process had: the GPU's where there is one, else all that was resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


_OWN = {
    "bare": run_bare,
    "edgekd": run_edgekd,
    "edgekd-channels-last": run_edgekd_channels_last,
    "edgekd-compiled": run_edgekd_compiled,
    "edgekd-cached": run_edgekd_cached,
}

if __name__ == "__main__":
    main()
