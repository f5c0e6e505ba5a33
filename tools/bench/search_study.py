"""Does a search choose better students than chance or the widest-fit rule, at equal training cost?

`python tools/bench/search_study.py --out DIR` chooses a student within a budget in several ways, for each data set and
seed, and trains what was chosen to the end. Cost is counted in multiply-accumulates: size of a student times its
epochs. All ways may spend the same in all; the final training goes on from the weights of the short one:

- `search`: `edgekd.search` with successive halving until the allowance is used up, then the best student to the end;
- `random`: students drawn by chance among those that keep the budget, each trained as long as the last rung, until the
  allowance is used up, then the best of them to the end;
- `widest`: the largest student of all that keeps the budget, trained to the end and as much longer as the allowance
  pays for;
- `widest-resnet`: the same among ResNets alone, as `edgekd distill` chooses without a search (`cifar10` only).

On `digits` and `fashion-mnist` students are drawn, and the teacher is trained here. On `cifar10` (`--images FILE`,
strips of 4,000 pictures, `--weights FILE` of a ResNet-20) space and settings are what `edgekd search` has by default:
families that begin with the teacher's first layers where these fit, and the teacher cut to fewer channels.

Results are kept row by row in `DIR/search-study.csv`, so the study can be begun again; `--report` prints the paired
comparison of what is there. Latencies are predicted for jetson-orin: nothing of the choice depends on this machine.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from paired import paired
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.budget import parse_budget
from edgekd.core.seeds import derive_seed
from edgekd.data import DataConfig, Dataset, load_dataset
from edgekd.distill import RunOptions, TrainSettings, evaluate, load_recipe, run_recipe
from edgekd.latency import predict
from edgekd.models import build, load_weights, parse_net, save_weights, spec_for
from edgekd.pipeline.candidates import Candidates
from edgekd.pipeline.config import TeacherConfig
from edgekd.pipeline.search_config import SpaceConfig
from edgekd.pipeline.starting import settings_of
from edgekd.pipeline.student_space import space_for
from edgekd.pipeline.training import load_teacher_for
from edgekd.search import (
    Plan,
    Point,
    SearchSpace,
    excesses,
    open_storage,
    open_study,
    queue_guesses,
    records_of,
    sampler_for,
    widest_fits,
    work,
)
from edgekd.targets import get_target

METHODS = ("search", "random", "widest")
RESNET = "widest-resnet"
_FIELDS = (
    "data",
    "seed",
    "method",
    "student",
    "mmacs",
    "final_epochs",
    "tried",
    "spent_share",
    "val",
    "test",
    "seconds",
)


@dataclass(frozen=True)
class Case:
    """One data set.

    Attributes:
        data: Which, and how much of it.
        teacher: Teacher of the zoo.
        teacher_epochs: How long it is trained; 0 where its weights are given.
        budget: What a student must keep on jetson-orin.
        space: What is searched.
        rungs: Epochs of the rungs.
        final_epochs: Epochs of a student that was chosen.
        allowance: Multiply-accumulates times epochs that choosing may cost, in millions.
        lr: Peak learning rate.
        inherit: Whether drawn students begin with the teacher's first layers where these fit.
        methods: Ways of choosing.
    """

    data: DataConfig
    teacher: str
    teacher_epochs: int
    budget: str
    space: SpaceConfig
    rungs: tuple[int, ...] = (1, 3, 9)
    final_epochs: int = 15
    allowance: float = 13.90752
    lr: float = 0.1
    inherit: bool = False
    methods: tuple[str, ...] = METHODS


_SPACE = SpaceConfig(
    families=("resnet", "wrn", "repvgg", "mobilenetv2"),
    depths={"resnet": (8, 14, 20), "wrn": (10, 16), "repvgg": (4, 7, 10), "mobilenetv2": (7, 12)},
    widths={"resnet": (2, 4, 6, 8, 12), "wrn": (2, 4, 6, 8), "repvgg": (2, 4, 8, 12), "mobilenetv2": (4, 8)},
    reduces=(1,),
)
CASES = {
    "digits": Case(DataConfig(name="digits", limit=800), "resnet14-w16", 15, "p99<0.85ms, memory<0.12MB", _SPACE),
    "fashion-mnist": Case(
        DataConfig(name="fashion-mnist", limit=1500, resolution=16),
        "resnet14-w16",
        12,
        "p99<0.85ms, memory<0.2MB",
        SpaceConfig(**{**_SPACE.model_dump(), "reduces": (1, 2)}),
        rungs=(1, 2, 5),
        final_epochs=8,
        allowance=34.7688,
    ),
    "cifar10": Case(
        DataConfig(name="cifar-strips"),
        "resnet20-w16",
        0,
        "p99<0.6ms, memory<0.25MB",
        SpaceConfig(),
        final_epochs=20,
        allowance=300,
        lr=0.05,
        inherit=True,
        methods=(*METHODS, RESNET),
    ),
}


class Counted:
    """Students of a search that count what their training costs.

    Args:
        candidates: The students.
    """

    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates
        self.spent_macs = 0
        self.tried = 0

    def cost(self, point: Point) -> Any:
        """Return what a student costs on the target."""
        return self._candidates.cost(point)

    def train(self, point: Point, goes_on: Callable[[int, float], bool]) -> tuple[float, int]:
        """Train a student and count it."""
        self.tried += 1
        score, epochs = self._candidates.train(point, goes_on)
        self.spent_macs += epochs * self._candidates.cost(point).macs
        return score, epochs


def main() -> int:
    """Run what is missing of the study, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", nargs="+", choices=sorted(CASES), default=["digits", "fashion-mnist"])
    parser.add_argument("--images", help="CIFAR-10 as strips, for cifar10")
    parser.add_argument("--weights", type=Path, help="its teacher, a ResNet-20 that takes ImageNet's mean")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="only compare what is there")
    args = parser.parse_args()
    if "cifar10" in args.data and not args.report and not (args.images and args.weights):
        parser.error("cifar10 needs --images and --weights")
    torch.set_num_threads(1)
    path = args.out / "search-study.csv"
    rows = _rows(path)
    done = {(row["data"], int(row["seed"]), row["method"]) for row in rows}
    for name in [] if args.report else args.data:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for method in CASES[name].methods:
                if (name, seed, method) not in done:
                    rows.append(run_case(name, seed, method, args))
                    _write(path, rows)
                    print(rows[-1], file=sys.stderr, flush=True)
    summary = compared(rows)
    (args.out / "search-study.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))
    return 0


def run_case(name: str, seed: int, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Choose a student in one way, train it to the end, and return its row."""
    case, started = CASES[name], time.monotonic()
    dataset = load_dataset(case.data.model_copy(update={"path": args.images}) if name == "cifar10" else case.data)
    given = args.weights if name == "cifar10" else None
    teacher = _given(case, dataset, given) if given else _teacher(case, dataset, args.out, name)
    candidates = _candidates(case, dataset, teacher, seed, args.out / "trained" / f"{name}-{seed}-{method}")
    plan = _plan(case, space_for(case.space, dataset, teacher[0]), dataset, seed)
    allowance, counted = int(1e6 * case.allowance), Counted(candidates)
    chooser = {"search": _searched, "random": _drawn, "widest": _widest, RESNET: _widest_resnet}[method]
    point = chooser(plan, counted, allowance)
    spec, macs = candidates.at(point).spec, candidates.cost(point).macs
    epochs = case.final_epochs + (allowance // macs if counted.tried == 0 else 0)
    final = run_recipe(
        candidates.recipe,
        student=spec,
        teacher=candidates.teacher,
        dataset=dataset,
        settings=settings_of(candidates.settings.model_copy(update={"epochs": epochs}), spec),
        options=RunOptions(derive_seed(seed, "final") % 2**31, start=candidates.start_of(point)),
    ).student
    return {
        "data": name,
        "seed": seed,
        "method": method,
        "student": spec.name,
        "mmacs": f"{macs / 1e6:.4f}",
        "final_epochs": epochs,
        "tried": counted.tried,
        "spent_share": f"{counted.spent_macs / allowance:.3f}",
        "val": f"{evaluate(final, dataset.val).score:.5f}",
        "test": f"{evaluate(final, dataset.test).score:.5f}",
        "seconds": f"{time.monotonic() - started:.0f}",
    }


def _searched(plan: Plan, students: Counted, allowance: int) -> Point:
    with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch:
        storage = open_storage(str(Path(scratch) / "study.journal"))
        study = open_study(storage, "study", directions=plan.directions, facts={}, sampler=None)
        study.sampler = sampler_for(plan, 0)
        queue_guesses(study, plan.space, widest_fits(plan.space, students.cost, plan.fits))
        trials = 0
        while students.spent_macs < allowance and trials < len(plan.space):
            trials += 1
            work(study, replace(plan, trials=trials), students, worker="study")
        records = records_of(study)
    best = max((one for one in records if one.is_counted), key=lambda one: (one.epochs, one.score or 0.0))
    return dict(best.point or {})


def _drawn(plan: Plan, students: Counted, allowance: int) -> Point:
    points = list(plan.space.points())
    random.Random(derive_seed(plan.seed, "random")).shuffle(points)  # noqa: S311
    best: tuple[float, Point] = (-math.inf, {})
    for point in points:
        if students.spent_macs >= allowance:
            break
        if any(share > 0 for share in plan.excess(students.cost(point))):
            continue
        score, _ = students.train(point, lambda epoch, _score: epoch < plan.rungs[-1])
        best = max(best, (score, point), key=lambda one: one[0])
    return best[1]


def _widest(plan: Plan, students: Counted, _allowance: int) -> Point:
    fitting = [
        point for point in plan.space.points() if max(excesses(students.cost(point), plan.budget), default=0) <= 0
    ]
    return max(fitting, key=lambda point: students.cost(point).macs)


def _widest_resnet(plan: Plan, students: Counted, allowance: int) -> Point:
    resnets = tuple(family for family in plan.space.families if family.family == "resnet")
    return _widest(replace(plan, space=SearchSpace(resnets, plan.space.facts)), students, allowance)


def _plan(case: Case, space: SearchSpace, dataset: Dataset, seed: int) -> Plan:
    return Plan(
        space=space,
        budget=parse_budget(case.budget),
        objectives=("score", "p99", "memory"),
        rungs=case.rungs,
        share=1 / 3,
        trials=1,
        no_skill=dataset.task.no_skill,
        seed=seed,
    )


def _candidates(case: Case, dataset: Dataset, teacher: tuple[NetSpec, nn.Module], seed: int, kept: Path) -> Candidates:
    target = get_target("jetson-orin")
    settings = TrainSettings(
        epochs=case.rungs[-1],
        batch_size=64,
        lr=case.lr,
        schedule="cosine",
        device="cpu",
        teacher_cache=str(kept.parents[1] / "teacher-cache"),
    )
    return Candidates(
        dataset=dataset,
        teacher=teacher,
        mean=dataset.mean,
        std=dataset.std,
        recipe=load_recipe("kd"),
        settings=settings,
        seed=seed,
        precision="fp16",
        predict=lambda graph: predict(graph, target, "fp16"),
        inherit=case.inherit,
        kept=kept,
    )


def _given(case: Case, dataset: Dataset, weights: Path) -> tuple[NetSpec, nn.Module]:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = TeacherConfig(net=case.teacher, weights=str(weights), mean=mean, std=std)
    spec, network = load_teacher_for(wanted, dataset)
    return spec, network.eval()


def _teacher(case: Case, dataset: Dataset, folder: Path, name: str) -> tuple[NetSpec, nn.Module]:
    family, choice = parse_net(case.teacher)
    spec = spec_for(
        family,
        **choice,
        in_channels=dataset.in_channels,
        num_classes=dataset.task.num_outputs,
        resolution=dataset.resolution,
        mean=dataset.mean,
        std=dataset.std,
    )
    path, net = folder / f"teacher-{name}.safetensors", build(spec)
    if not path.is_file():
        settings = TrainSettings(epochs=case.teacher_epochs, batch_size=64, lr=0.1, schedule="cosine", device="cpu")
        net = run_recipe(
            load_recipe("plain"),
            student=spec,
            teacher=None,
            dataset=dataset,
            settings=settings,
            options=RunOptions(0),
        ).student
        save_weights(net, path, {"score": f"{evaluate(net, dataset.test).score:.4f}"})
    load_weights(net, path)
    return spec, net.eval()


def compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the search with the others on the same data and seeds, in points of test accuracy."""
    said = {"better": "better, significant", "worse": "worse, significant", "-": "no significant difference"}
    names = sorted({row["data"] for row in rows})
    summary: dict[str, Any] = {"data": names}
    for name, other in itertools.product(names, (*METHODS[1:], RESNET)):
        found = paired(_scores(rows, name, "search"), _scores(rows, name, other))
        if found is not None:
            summary[f"search minus {other} on {name}"] = {
                "mean_points": round(found.mean, 3),
                "margin_points": None if math.isinf(found.margin) else round(found.margin, 3),
                "pairs": found.seeds,
                "search_better_in": found.better,
                "wilcoxon_p": round(found.wilcoxon_p, 4),
                "statement": f"{said[found.verdict]} at 5 % (Student's interval of the mean difference)",
            }
    return summary


def _scores(rows: list[dict[str, Any]], name: str, method: str) -> dict[int, float]:
    chosen = [row for row in rows if (row["data"], row["method"]) == (name, method)]
    return {int(row["seed"]): 100 * float(row["test"]) for row in chosen}


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _FIELDS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
