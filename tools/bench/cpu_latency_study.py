"""How well ten measurements predict the latency of other students on this CPU.

`python tools/bench/cpu_latency_study.py --out results.csv` draws students of five families, exports and builds them as
`edgekd search` does, times them in alternating rounds, learns the machine from ten of them and predicts the rest. The
time of a student is the median of its quietest round: other work on the machine only adds time, in bursts. Networks
slower than `--slowest-ms` are left out, and counted: on a machine that is shared they never run undisturbed between two
turns of the scheduler. Exports are kept in `--cache`, so the study can be begun again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgekd.core.artifacts import NetSpec, OnnxModel, from_json, to_json
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.export import export_onnx, random_inputs
from edgekd.latency import CpuPoint, LayerGraph, calibrate_cpu
from edgekd.latency.torch_ops import graph_of_spec
from edgekd.models import FAMILIES, build, deploy, spec_for
from edgekd.profile import SystemHost, measure
from edgekd.targets import get_target

_FAMILIES = ("resnet", "wrn", "vgg", "mobilenetv2", "repvgg")
_FIELDS = (
    "student", "family", "role", "mmacs", "kernels", "measured_p50_ms", "measured_min_ms", "predicted_p50_ms", "low_ms",
    "high_ms", "error", "is_inside",
)  # fmt: skip


def main() -> int:
    """Run the study and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--students", type=int, default=50, help="students predicted, beside those learnt from")
    parser.add_argument("--seed", type=int, default=20261)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--most-mmacs", type=float, default=60.0)
    parser.add_argument("--slowest-ms", type=float, default=2.5)
    args = parser.parse_args()
    specs = drawn(args.students + 10, seed=args.seed, most_macs=args.most_mmacs * 1e6)
    models = [exported(spec, args.cache) for spec, _ in specs]
    points, fastest = timed(specs, models, args.cache, rounds=args.rounds)
    kept = [place for place, point in enumerate(points) if point.p50_ms <= args.slowest_ms]
    rows, summary = evaluated([points[place] for place in kept], [fastest[place] for place in kept])
    summary |= {"left_out_as_slow": len(points) - len(kept), "seed": args.seed, "rounds": args.rounds}
    summary["cpu"] = SystemHost().state().cpu_model
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    args.out.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary, indent=2))
    return 0


def drawn(count: int, *, seed: int, most_macs: float) -> list[tuple[NetSpec, LayerGraph]]:
    """Draw students by chance: families in turn, any depth, width, kernel, reduction and one of three resolutions."""
    found: dict[str, tuple[NetSpec, LayerGraph]] = {}
    for spec in _endless(random.Random(seed)):  # noqa: S311
        if spec.digest in found:
            continue
        graph = graph_of_spec(spec)
        if graph.macs <= most_macs:
            found[spec.digest] = (spec, graph)
        if len(found) == count:
            return list(found.values())
    raise AssertionError("an endless supply has ended")


def _endless(chance: random.Random) -> Iterator[NetSpec]:
    turn = 0
    while True:
        family = _FAMILIES[turn % len(_FAMILIES)]
        turn += 1
        channels, resolution = chance.choice([(1, 28), (3, 32), (3, 32), (3, 16)])
        options = {"reduce": chance.choice(["1", "1", "2"])}
        if family == "mobilenetv2":
            options["kernel"] = chance.choice(["3", "5"])
        yield spec_for(
            family,
            depth=chance.choice(FAMILIES[family].depths),
            width=chance.choice(FAMILIES[family].widths),
            in_channels=channels,
            num_classes=10,
            resolution=resolution,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            options={name: value for name, value in options.items() if value != "1"},
        )


def exported(spec: NetSpec, cache: Path) -> OnnxModel:
    """Export a student, or take what was exported before."""
    import torch

    path, facts = cache / f"{spec.digest[:16]}.onnx", cache / f"{spec.digest[:16]}.json"
    if facts.is_file():
        model = from_json(OnnxModel, json.loads(facts.read_text(encoding="utf-8")))
        if model.file.is_intact():
            return model
    torch.manual_seed(0)
    model = export_onnx(deploy(build(spec)), path, input_shape=spec.input_shape)
    facts.write_text(json.dumps(to_json(model)), encoding="utf-8")
    print(f"exported {spec.name}", file=sys.stderr, flush=True)
    return model


def timed(
    specs: list[tuple[NetSpec, LayerGraph]], models: list[OnnxModel], cache: Path, *, rounds: int
) -> tuple[list[CpuPoint], list[float]]:
    """Time all students in alternating rounds; returns points and the fastest single run of each."""
    backend = BACKENDS["onnxruntime"]
    with ExitStack() as stack:
        runners = []
        for model in models:
            engine = backend.build(model, cache / Path(model.file.path).stem, BuildOptions(get_target("cpu")))
            runners.append((stack.enter_context(backend.open(engine)), random_inputs(model, 1, seed=0)))
        reports: list[list[Any]] = [[] for _ in models]
        for number in range(rounds):
            for place, (runner, inputs) in enumerate(runners):
                timing = measure(
                    runner, inputs, target="cpu", precision="fp32", warmup=3, min_samples=30, min_seconds=0.02
                )
                reports[place].append(timing.report)
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    points = [
        CpuPoint(
            graph,
            min(report.p50_ms for report in mine),
            statistics.median(report.p99_ms for report in mine),
            spec.name,
        )
        for (spec, graph), mine in zip(specs, reports, strict=True)
    ]
    return points, [min(report.conditions["min_ms"] for report in mine) for mine in reports]


def evaluated(points: list[CpuPoint], fastest: list[float]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Learn from ten and predict the others; returns one row a student, and a summary with two baselines."""
    learnt = _calibration(points)
    model = calibrate_cpu([points[place] for place in learnt])
    rows = []
    for place, point in enumerate(points):
        report = model.predict(point.graph)
        error = report.p50_ms / point.p50_ms - 1
        rows.append(
            {
                "student": point.name,
                "family": _family(point),
                "role": "learnt from" if place in learnt else "predicted",
                "mmacs": f"{point.graph.macs / 1e6:.4f}",
                "kernels": len(point.graph.layers),
                "measured_p50_ms": f"{point.p50_ms:.5f}",
                "measured_min_ms": f"{fastest[place]:.5f}",
                "predicted_p50_ms": f"{report.p50_ms:.5f}",
                "low_ms": f"{report.low_ms:.5f}",
                "high_ms": f"{report.high_ms:.5f}",
                "error": f"{error:.4f}",
                "is_inside": report.low_ms <= point.p50_ms <= report.high_ms,
            }
        )
    predicted = [row for row in rows if row["role"] == "predicted"]
    errors = sorted(abs(float(row["error"])) for row in predicted)
    return rows, {
        "learnt_from": len(learnt),
        "predicted": len(predicted),
        "median_error": statistics.median(errors),
        "p90_error": errors[math.ceil(0.9 * len(errors)) - 1],
        "within_10_percent": sum(error <= 0.1 for error in errors) / len(errors),
        "interval_coverage": sum(row["is_inside"] for row in predicted) / len(predicted),
        "half_width_log": model.half_width_log,
        "macs_baseline_median_error": _baseline(points, learnt),
    }


def _calibration(points: list[CpuPoint]) -> set[int]:
    """Two of each family, a fifth from either end in size, as a search chooses them."""
    chosen: set[int] = set()
    for family in _FAMILIES:
        places = sorted(
            (place for place, point in enumerate(points) if _family(point) == family),
            key=lambda place: points[place].graph.macs,
        )
        chosen |= {places[len(places) // 5], places[4 * len(places) // 5]}
    return chosen


def _baseline(points: list[CpuPoint], learnt: set[int]) -> float:
    """Median error of constant + MACs, fitted to the same ten by least squares on relative error."""
    import numpy as np

    rows = np.array([[1.0, point.graph.macs / 1e6] for point in points])
    times = np.array([point.p50_ms for point in points])
    places = sorted(learnt)
    weights, *_ = np.linalg.lstsq(rows[places] / times[places, None], np.ones(len(places)), rcond=None)
    errors = [abs(rows[place] @ weights / times[place] - 1) for place in range(len(points)) if place not in learnt]
    return float(np.median(errors))


def _family(point: CpuPoint) -> str:
    return next(family for family in _FAMILIES if point.name.startswith(family))


if __name__ == "__main__":
    sys.exit(main())
