"""Trainings that are killed at random moments and go on: do they end with the very weights of one that is not killed?

    python tools/reliability/kill_training.py --kills 20

Each recipe is trained once in one piece, and once more by a process that gets SIGKILL again and again, at moments drawn
evenly over the time it needs, with two data workers and a state kept after every step. Weights and histories are
compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edgekd.core import atomic
from edgekd.core.artifacts import NetSpec
from edgekd.core.digest import sha256_of_arrays, sha256_of_json
from edgekd.data import DataConfig, Dataset, load_dataset
from edgekd.distill import Resumption, RunOptions, TrainSettings, load_recipe
from edgekd.distill.jobs import Job, load_job, save_job
from edgekd.distill.state_files import StateFiles
from edgekd.models import build

RECIPES: dict[str, dict[str, Any]] = {
    "kd": {"ema": 0.99, "mixup": 0.4, "cutmix": 1.0, "augment": "crop-flip+randaugment"},
    "crd": {"optimizer": "adamw", "lr": 0.002},
    "mgd": {"accumulate": 2, "schedule": "wsd"},
    "sskd": {"patience": 3},
    "rl-kd": {},
    "knowledge-selection": {"max_grad_norm": 1.0},
    "online-checkpoints": {"layer_decay": 0.7},
}
_DATA = DataConfig(name="digits", limit=600)


def run(
    scratch: Path, *, kills: int = 20, recipes: tuple[str, ...] = tuple(RECIPES), epochs: int = 2, seed: int = 0
) -> dict[str, Any]:
    """Kill trainings.

    Args:
        scratch: A folder for the states.
        kills: How often, over all recipes.
        recipes: Which of `RECIPES`.
        epochs: Epochs of a stage.
        seed: Decides the moments.

    Returns:
        For each recipe the kills, where the state kept stood after each, and whether the end is the same.
    """
    rng, dataset = random.Random(seed), load_dataset(_DATA)
    shares = [kills // len(recipes) + (index < kills % len(recipes)) for index in range(len(recipes))]
    figures = {
        name: _killed(scratch / name, _job(scratch / name, name, dataset, epochs), share, rng)
        for name, share in zip(recipes, shares, strict=True)
    }
    return {
        "kills": sum(one["kills"] for one in figures.values()),
        "recipes": figures,
        "identical": all(one["is_identical"] for one in figures.values()),
    }


def _job(folder: Path, name: str, dataset: Dataset, epochs: int) -> Job:
    teacher, student = (
        NetSpec("resnet", 8, width, 8, 1, 10, dataset.mean, dataset.std, {"shortcut": "A"}) for width in (16, 4)
    )
    torch.manual_seed(1)
    network = build(teacher).eval()
    changed = {"epochs": epochs, "batch_size": 32, "augment": "shift", "device": "cpu", "workers": 2}
    settings = TrainSettings.model_validate({**changed, **RECIPES[name]})
    resume = Resumption(folder / "states" / "state.safetensors", every_s=0, every_steps=1, keep=2)
    options = RunOptions(3, name, folder / "weights", resume=resume)
    return Job(load_recipe(name), student, (teacher, network), dataset.digest, settings, options)


def _killed(folder: Path, job: Job, kills: int, rng: random.Random) -> dict[str, Any]:
    save_job(job, folder)
    _child(folder, "whole.json").wait()
    whole = json.loads((folder / "whole.json").read_text())
    state, done, kept = folder / "states" / "state.safetensors", 0, []
    while True:
        before_ns = _written_ns(state)
        child = _child(folder, "killed.json")
        if done == kills:
            child.wait()
            break
        while child.poll() is None and _written_ns(state) == before_ns:
            time.sleep(0.002)
        try:
            child.wait(timeout=rng.random() * whole["training_s"] / (kills + 1))
            break
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            done += 1
            kept.append(_position(state))
    killed = json.loads((folder / "killed.json").read_text())
    is_identical = all(whole[key] == killed[key] for key in ("weights", "history"))
    return {"kills": done, "kept_stage_epoch_step": kept, "epochs": len(whole["epochs"]), "is_identical": is_identical}


def _written_ns(state: Path) -> int:
    return state.stat().st_mtime_ns if state.exists() else 0


def _position(state: Path) -> list[int]:
    """Return stage, epoch and step of the state that the next process goes on from; nothing once training was done."""
    tree = StateFiles(state, 2).newest(print)
    if tree is None:
        return []
    tally = next(part for part in tree["parts"] if isinstance(part, dict) and "sums" in part)
    return [tree["stage"], tree["epochs"], tally["step"]]


def _child(folder: Path, result: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--job", str(folder), "--result", result]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def _train(folder: Path, result: str) -> None:
    dataset, job = load_dataset(_DATA), load_job(folder)
    started = time.perf_counter()
    outcome = job.run(dataset)
    weights = {name: value.numpy() for name, value in outcome.student.state_dict().items()}
    history = [{**asdict(epoch), "seconds": 0} for epoch in outcome.history]
    document = {
        "weights": sha256_of_arrays(weights),
        "history": sha256_of_json(history),
        "epochs": [epoch["stage"] for epoch in history],
        "training_s": time.perf_counter() - started,
    }
    atomic.write_json(folder / result, document)


def main() -> None:
    """Run the experiment and keep its figures, or do one training of it."""
    from keep_result import RESULTS, clean_commit, cpu_name

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--scratch", type=Path, default=Path("runs/kill-training"))
    parser.add_argument("--keep", action="store_true", help="write the figures into tools/bench/results")
    parser.add_argument("--job", type=Path)
    parser.add_argument("--result")
    arguments = parser.parse_args()
    if arguments.job is not None:
        return _train(arguments.job, arguments.result)
    figures = run(arguments.scratch, kills=arguments.kills)
    print(json.dumps(figures, indent=1))
    if arguments.keep:
        version = torch.__version__.partition("+")[0]
        name = f"kill-training_cpu-{cpu_name()}_torch{version}_{clean_commit()}.json"
        atomic.write_json(RESULTS / name, figures)
    sys.exit(0 if figures["identical"] else 1)


if __name__ == "__main__":
    main()
