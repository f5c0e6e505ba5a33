"""Many short trainings in one process: do memory, file descriptors, threads or child processes pile up?

    python tools/reliability/run.py soak --option runs=500

Recipes of every kind follow each other, some with data workers, each with a state kept at every step, and each student
is thrown away. What is left is looked at after every run.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from kill_training import RECIPES

from edgekd.core.artifacts import NetSpec
from edgekd.data import DataConfig, load_dataset
from edgekd.distill import Resumption, RunOptions, TrainSettings, load_recipe, run_recipe
from edgekd.models import build

_DATA = DataConfig(name="digits", limit=160)
_SETTLED = 0.4
_MOST_KB_A_RUN = 10.0


def run(scratch: Path, *, runs: int = 500) -> dict[str, Any]:
    """Train again and again.

    Args:
        scratch: A folder for states.
        runs: How often.

    Returns:
        What the process held at every tenth of the way, by how much memory grew for each run once it had settled, and
        whether anything piled up.
    """
    dataset, process, seen = load_dataset(_DATA), psutil.Process(), []
    teacher, student = (
        NetSpec("resnet", 8, width, 8, 1, 10, dataset.mean, dataset.std, {"shortcut": "A"}) for width in (8, 2)
    )
    torch.manual_seed(0)
    network = build(teacher).eval()
    names = list(RECIPES)
    begun = time.monotonic()
    for index in range(runs):
        name = names[index % len(names)]
        common = {"epochs": 1, "batch_size": 32, "augment": "shift", "device": "cpu", "threads": 1}
        more = {"workers": 1} if index % 5 == 0 else {}
        run_recipe(
            load_recipe(name),
            student=student,
            teacher=(teacher, network),
            dataset=dataset,
            settings=TrainSettings.model_validate({**common, **RECIPES[name], **more}),
            options=RunOptions(
                index, name, scratch / "weights", resume=Resumption(scratch / "state.safetensors", every_steps=1)
            ),
        )
        gc.collect()
        seen.append(_held(process))
    return {"runs": runs, "seconds": round(time.monotonic() - begun, 1), **judged(seen)}


def judged(seen: list[dict[str, float]]) -> dict[str, Any]:
    """Return what piled up.

    Args:
        seen: What the process held after each run: `rss_mb`, `descriptors`, `threads`, `children`.

    Returns:
        Samples, growth of memory in kilobytes a run by least squares over the last 60 %, changes of the rest over them,
        and `failures`: 1 where memory grows by more than 10 kB a run or any of the others by anything.
    """
    settled = seen[int(_SETTLED * len(seen)) :]
    growth_kb = 1024 * float(np.polyfit(np.arange(len(settled)), [one["rss_mb"] for one in settled], 1)[0])
    changes = {name: settled[-1][name] - settled[0][name] for name in ("descriptors", "threads", "children")}
    every = max(1, len(seen) // 10)
    return {
        "samples": seen[::every],
        "last": seen[-1],
        "growth_kb_per_run": round(growth_kb, 2),
        **{f"{name}_change": change for name, change in changes.items()},
        "failures": int(growth_kb > _MOST_KB_A_RUN or any(change > 0 for change in changes.values())),
    }


def _held(process: psutil.Process) -> dict[str, float]:
    return {
        "rss_mb": round(process.memory_info().rss / 2**20, 2),
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children(recursive=True)),
    }
