"""Everything that needs an NVIDIA GPU, in slices: tests, kernel benchmarks, accuracy on CIFAR-100.

    PYTHONPATH=.:kernels:deploy/agent python tools/gpu/run.py --minutes 9 --data packed/ --commit abc1234

Runs from the source tree, nothing is installed by it. Run it again to go on: what has a result file for the commit is
done, the accuracy study goes on where it paused (its state lies in `--state`, keep that folder).

Steps, what each needs beside torch, and its result under `tools/bench/results`:

- `tests`: those marked `gpu`; triton and pytest, all cores with pytest-xdist, and for whole runs what the engine needs.
  `gpu-tests_*.json`.
- `sanitizer`: compute-sanitizer of the CUDA toolkit; does a kernel, on small tensors, read or write out of bounds, or
  race in shared memory?
  `gpu-sanitizer_*.json`.
- `kernels`: triton and numpy. `kernels_*.csv`; until it is complete, what there is lies beside it in `*.csv.part`.
- `train-step`: what the engine needs, and `--peers`, a folder of published code (see `tools/bench/train_step.py`);
  without it edgekd's own engines are timed. `train-step_*.json`.
- `methods`: what the engine needs (numpy, accelerate, pydantic, PyYAML, safetensors, Pillow) and `--data`, CIFAR-100
  packed by `tools/bench/pack_images.py`. `methods-cifar100_*.csv`.

A step whose packages are missing is refused with their names. They are plain wheels: on a machine of the same Python,
`pip download --only-binary=:all: --no-deps` and `pip install --no-index --target packages` make a folder that travels;
put it on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import sanitizer

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ("numpy", "accelerate", "pydantic", "yaml", "safetensors", "PIL")
_INSTALLED_AS = {"yaml": "PyYAML", "PIL": "Pillow"}


@dataclass(frozen=True)
class Plan:
    """What one call does.

    Attributes:
        commit: Of the code.
        data: Packed CIFAR-100, or None.
        device: `"cuda"`, or `"cpu"` for a trial of the script.
        epochs: In place of the suite's, for a trial; or None.
        limit: Training images, for a trial; or None.
        methods: Comma-separated, or None for the suite's.
        pairs: Comma-separated, or None for all.
        seeds: How many.
        peers: Published code to time beside edgekd, or None.
        compile: Mode of torch.compile.
        results: Where results go.
        state: Where trained teachers and interrupted runs lie.
        stop_at: `time.monotonic()` when the slice ends.
    """

    commit: str
    data: str | None
    device: str
    epochs: int | None
    limit: int | None
    methods: str | None
    pairs: str | None
    seeds: int
    peers: str | None
    compile: str
    results: Path
    state: Path
    stop_at: float

    @property
    def left_s(self) -> float:
        """Seconds left of the slice."""
        return self.stop_at - time.monotonic()


def main() -> None:
    """Run the steps that are asked for, one after the other, until the slice ends."""
    arguments = _parser().parse_args()
    given = {name: value for name, value in vars(arguments).items() if name not in ("minutes", "steps")}
    plan = Plan(**given, stop_at=time.monotonic() + 60 * arguments.minutes)
    codes = [run_step(name, plan) for name in arguments.steps.split(",")]
    sys.exit(max(codes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="length of this slice")
    parser.add_argument("--steps", default=",".join(STEPS), help="which, in this order")
    parser.add_argument("--data", help="packed CIFAR-100")
    parser.add_argument("--commit", required=True, help="short hash of the code, for the names of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a trial of this script")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--methods")
    parser.add_argument("--pairs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", help="folder of published code to time beside edgekd")
    parser.add_argument("--compile", default="default", help="mode of torch.compile; no for none")
    parser.add_argument("--results", type=Path, default=ROOT / "tools" / "bench" / "results")
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "methods")
    return parser


def run_step(name: str, plan: Plan) -> int:
    """Run one step unless it is done, cannot run or has no time; returns its exit status, 0 for a pause.

    Args:
        name: Key of `STEPS`.
        plan: What this call does.
    """
    if name not in STEPS:
        print(f"{name}: no such step; there are {', '.join(STEPS)}")
        return 2
    step = STEPS[name]
    missing = missing_packages(step.needs)
    if missing:
        print(f"{name}: not run, this Python lacks {', '.join(missing)} (see --help for a folder that carries them)")
        return 5
    if plan.left_s < step.least_s:
        print(f"{name}: not started, {plan.left_s:.0f} s are left of the slice and it needs {step.least_s:.0f}")
        return 0
    result = plan.results / f"{step.result}_{_where(plan)}{step.suffix}"
    if step.result and result.exists():
        print(f"{name}: done, {result}")
        return 0
    started = time.monotonic()
    status = step.run(plan, result)
    print(f"{name}: {time.monotonic() - started:.0f} s, status {status}", flush=True)
    return status


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """Return which of these import names cannot be found, by the name they are installed as."""
    return [_INSTALLED_AS.get(name, name) for name in names if importlib.util.find_spec(name) is None]


def _tests(plan: Plan, path: Path) -> int:
    report = plan.state / "gpu-tests.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    marked = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    lacking = missing_packages(ENGINE)
    if lacking:
        print(f"tests: of the kernels only, this Python lacks {', '.join(lacking)}")
    folders = ["tests/kernels"] if lacking else ["tests/kernels", "tests/e2e"]
    command = [*marked, f"--junitxml={report}", *_at_once(), *folders]
    status = _python(command, plan)
    if status in (0, 1):
        plan.results.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(test_outcomes(report.read_text(encoding="utf-8")), indent=1) + "\n")
    nothing_marked = 5
    return 0 if status == nothing_marked else status


def _sanitizer(plan: Plan, path: Path) -> int:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("sanitizer: not run, compute-sanitizer of the CUDA toolkit is not on the PATH")
        return 5
    found = {}
    for name in sanitizer.CHECKS:
        try:
            found[name] = sanitizer.check(
                tool, name, plan.state / "sanitizer", shares=os.cpu_count() or 1, device=plan.device,
                limit_s=max(1.0, plan.left_s),
            )  # fmt: skip
        except TimeoutError as error:
            print(f"sanitizer: stopped, {name} was {error}")
            return 124
    print(f"sanitizer: {found}; what it said lies in {plan.state / 'sanitizer'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    is_clean = all(each["processes"] and not each["errors"] and not each["failed"] for each in found.values())
    return 0 if is_clean else 1


def _at_once() -> list[str]:
    """Return what makes pytest use all cores where it can."""
    return ["-n", "auto", "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []


def test_outcomes(junit: str) -> Mapping[str, str]:
    """Return the outcome of each test of a JUnit report: `passed`, `failed: WHY` or `skipped: WHY`."""
    outcomes = {}
    for case in ElementTree.fromstring(junit).iter("testcase"):  # noqa: S314 - written by our own pytest
        problems = [child for child in case if child.tag in ("failure", "error", "skipped")]
        words = "passed" if not problems else f"{problems[0].tag.replace('failure', 'failed')}: "
        outcomes[f"{case.get('classname')}.{case.get('name')}"] = words + "".join(
            (problem.get("message") or "").splitlines()[0] for problem in problems[:1] if problem.get("message")
        )
    return outcomes


def _kernels(plan: Plan, path: Path) -> int:
    minutes = max(0.0, plan.left_s - 60) / 60
    command = [str(ROOT / "tools" / "bench" / "kernels.py"), f"--into={path}", f"--minutes={minutes:.2f}"]
    is_trial = plan.device == "cpu"
    trial = ["--table=small", "--compile=no", "--repeats=2"] if is_trial else ["--compile=default"]
    return _python([*command, f"--device={plan.device}", f"--commit={plan.commit}", *trial], plan)


def _train_step(plan: Plan, path: Path) -> int:
    part = path.with_suffix(".json.part")
    engines = "--engines=bare,edgekd,edgekd-compiled" if plan.peers is None else f"--peers={plan.peers}"
    sizes = ["--pair=resnet32x4-resnet8x4", "--steps=60", "--rounds=3"]
    trial = ["--batch=8", "--steps=1", "--rounds=1", "--methods=kd"]
    named = [f"--device={plan.device}", f"--commit={plan.commit}", f"--into={part}", engines]
    chosen = trial if plan.device == "cpu" else sizes
    status = _python([str(ROOT / "tools" / "bench" / "train_step.py"), *named, *chosen], plan)
    if status == 0:
        part.replace(path)
    return status


def _methods(plan: Plan, _path: Path) -> int:
    if plan.data is None:
        print("methods: needs --data, CIFAR-100 packed by tools/bench/pack_images.py")
        return 2
    command = [str(ROOT / "tools" / "bench" / "methods.py"), "--suite", "cifar100"]
    minutes = max(0.0, plan.left_s - 20) / 60
    values = {
        "data": plan.data,
        "device": plan.device,
        "commit": plan.commit,
        "seeds": plan.seeds,
        "compile": plan.compile,
        "epochs": plan.epochs,
        "limit": plan.limit,
        "methods": plan.methods,
        "pairs": plan.pairs,
        "results": plan.results,
        "state": plan.state,
        "slice-minutes": f"{minutes:.2f}",
    }
    command += [f"--{name}={value}" for name, value in values.items() if value is not None]
    return _python(command, plan)


def _python(command: list[str], plan: Plan) -> int:
    try:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, timeout=max(1.0, plan.left_s), check=False)
    except subprocess.TimeoutExpired:
        print("stopped: the slice is over")
        return 124
    return done.returncode


def _where(plan: Plan) -> str:
    import torch

    device = f"gpu-{torch.cuda.get_device_name()}" if plan.device == "cuda" else "cpu-trial"
    name = re.sub(r"[^\w.]+", "-", device).strip("-")
    return f"{name}_torch{torch.__version__.partition('+')[0]}_{plan.commit}"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        run: Does it; given the plan and the file of its result, returns an exit status.
        needs: Import names that it cannot do without.
        least_s: Seconds below which it is not worth starting.
        result: How its result file is called; empty where it goes on with a file of its own.
        suffix: Of that file.
    """

    run: Callable[[Plan, Path], int]
    needs: tuple[str, ...]
    least_s: float
    result: str = ""
    suffix: str = ".json"


STEPS: Mapping[str, Step] = {
    "tests": Step(_tests, ("torch", "triton", "pytest"), 60, "gpu-tests"),
    "sanitizer": Step(_sanitizer, ("torch", "triton", "numpy"), 90, "gpu-sanitizer"),
    "kernels": Step(_kernels, ("torch", "triton", "numpy"), 90, "kernels", ".csv"),
    "train-step": Step(_train_step, ("torch", *ENGINE), 60, "train-step"),
    "methods": Step(_methods, ("torch", *ENGINE), 30),
}


if __name__ == "__main__":
    main()
