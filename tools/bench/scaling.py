"""Two processes with a thread each against one process with two threads: what does training in several cost?

    python tools/bench/scaling.py [--rounds 3] [--keep]

The batch of all processes together is the same, so the work is. The ratio is that of the fastest epochs, in rounds that
take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from keep_result import RESULTS, clean_commit, cpu_name

from edgekd.core import atomic

_RECIPES = ("kd", "reviewkd", "crd")
_BATCH, _IMAGES, _EPOCHS = 64, 512, 3
_PAIR = ("resnet:depth=56,width=16,shortcut=B", "resnet:depth=20,width=16,shortcut=B")


def main() -> None:
    """Measure, print, and keep where that was asked for."""
    if len(sys.argv) > 1 and sys.argv[1] == "--child":
        print(json.dumps(_train(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="keep the figures among the results")
    arguments = parser.parse_args()
    figures = {recipe: _compared(recipe, arguments.rounds) for recipe in _RECIPES}
    print(json.dumps(figures, indent=1))
    if arguments.keep:
        version = torch.__version__.partition("+")[0]
        name = f"scaling_cpu-{cpu_name()}_torch{version}_{clean_commit()}.json"
        atomic.write_json(RESULTS / name, {"batch": _BATCH, "pair": _PAIR, "recipes": figures})


def _compared(recipe: str, rounds: int) -> dict[str, Any]:
    one, two = [], []
    for _ in range(rounds):
        one.append(_run(recipe, processes=1))
        two.append(_run(recipe, processes=2))
    ratios = [pair / single for single, pair in zip(one, two, strict=True)]
    return {
        "one_process_two_threads_ms": [round(step, 2) for step in one],
        "two_processes_one_thread_ms": [round(step, 2) for step in two],
        "ratio_median": round(statistics.median(ratios), 3),
    }


def _run(recipe: str, *, processes: int) -> float:
    """Return milliseconds a step of the first process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    threads = str(2 // processes)
    children = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--child", recipe],
            env=os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    told = [child.communicate(timeout=1800)[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit("a process failed; its message is above")
    step_ms: float = json.loads(told[0].splitlines()[-1])
    return step_ms


def _train(recipe: str) -> float:
    from train_step_child import MEAN, STD, pictures, settled, spec_of

    from edgekd.data import Dataset
    from edgekd.distill import RunOptions, TrainSettings, load_recipe, run_recipe
    from edgekd.distill.group import Group, launched
    from edgekd.models import build

    ranks = launched()
    torch.manual_seed(0)
    train = pictures(_IMAGES)
    teacher, student = (spec_of(name) for name in _PAIR)
    settings = TrainSettings(
        epochs=_EPOCHS, batch_size=_BATCH, device="cpu", augment="crop-flip", threads=2 // ranks.of, select="last"
    )
    given = (teacher, settled(build(teacher)))
    dataset = Dataset("random", train, pictures(64), pictures(64), MEAN, STD, digest="random")

    def trained() -> float:
        outcome = run_recipe(
            load_recipe(recipe),
            student=student,
            teacher=given,
            dataset=dataset,
            settings=settings,
            options=RunOptions(),
        )
        return 1000 * min(epoch.seconds for epoch in outcome.history[1:]) / (_IMAGES // _BATCH)

    if ranks.is_alone:
        return trained()
    with Group(ranks).connected("cpu"):
        return trained()


if __name__ == "__main__":
    main()
