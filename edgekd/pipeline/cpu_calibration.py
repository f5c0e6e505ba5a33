"""Students measured on this CPU: a few before a search, so that the rest can be predicted, and finalists after it."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.core.artifacts import LatencyReport, NetSpec, OnnxModel
from edgekd.core.errors import ConfigError
from edgekd.core.seeds import derive_seed
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.export import export_onnx, random_inputs
from edgekd.latency import CpuPoint, LayerGraph
from edgekd.latency.cpu_model import FEWEST
from edgekd.models import PRUNED, build, deploy
from edgekd.profile import measure
from edgekd.search import Point, SearchSpace
from edgekd.targets import get_target

_DRAWN = 12
_ROUNDS = 5


@dataclass(frozen=True)
class CpuSettings:
    """How networks are timed here.

    Attributes:
        threads: CPU threads of the network.
        min_seconds: Shortest time of one round.
        rounds: Rounds of each network; those of different networks alternate.
    """

    threads: int = 1
    min_seconds: float = 0.1
    rounds: int = _ROUNDS


def calibration_points(
    space: SearchSpace, macs_of: Callable[[Point], int], *, count: int, max_macs: int | None, seed: int
) -> list[Point]:
    """Choose students to measure: of every family, evenly spread over the sizes of a random dozen.

    Where fewer are small enough, the smallest of the family stand in: what is measured need not be allowed.

    Args:
        space: What is searched.
        macs_of: Multiply-accumulates of a student.
        count: How many, at least, if the space has as many; a few more where the families do not divide it.
        max_macs: Larger ones are avoided.
        seed: Decides the dozen.

    Raises:
        ConfigError: The space has too few students.
    """
    if len(space) < FEWEST:
        raise ConfigError(
            f"the space has {len(space)} students, {FEWEST} at least are measured before this CPU is predicted: allow "
            "more (--space, --set search.space...)"
        )
    families = [one for one in space.families if one.family != PRUNED]  # cutting costs more time than drawing
    if sum(map(len, families)) < count:
        families = list(space.families)
    each = -(-count // len(families))
    chosen: list[Point] = []
    for one in families:
        points = list(one.points())
        random.Random(derive_seed(seed, "calibration", one.family)).shuffle(points)  # noqa: S311
        drawn = points[: max(_DRAWN, 2 * each)]
        sizes = [macs_of(point) for point in drawn]
        order = sorted(range(len(drawn)), key=lambda place: (sizes[place], place))
        fitting = [place for place in order if max_macs is None or sizes[place] <= max_macs]
        among = fitting if len(fitting) >= each else order[:each]
        places = np.round(np.linspace(0.1, 0.9, each) * (len(among) - 1)) if len(among) > each else range(len(among))
        chosen += [drawn[among[int(place)]] for place in dict.fromkeys(places)]
    return chosen


def measured_points(specs: list[tuple[NetSpec, LayerGraph]], settings: CpuSettings) -> list[CpuPoint]:
    """Export networks, build them with ONNX Runtime and time them in alternating rounds.

    Other work on the machine only ever adds time, in bursts, so the median of the quietest round counts; the tail is
    the median over the rounds.

    Args:
        specs: Networks and their kernels; the weights are drawn, they do not decide the time.
        settings: How to time.

    Returns:
        One point a network, in order.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch, ExitStack() as stack:
        runners = []
        for index, (spec, _) in enumerate(specs):
            onnx = exported_student(spec, Path(scratch) / f"{index}.onnx", opset=get_target("cpu").max_opset)
            options = BuildOptions(get_target("cpu"), threads=settings.threads)
            engine = BACKENDS["onnxruntime"].build(onnx, Path(scratch) / f"engine{index}", options)
            runner = stack.enter_context(BACKENDS["onnxruntime"].open(engine))
            runners.append((runner, random_inputs(onnx, 1, seed=0)))
        rounds: list[list[LatencyReport]] = [[] for _ in specs]
        for _ in range(settings.rounds):
            for place, (runner, inputs) in enumerate(runners):
                rounds[place].append(
                    measure(
                        runner,
                        inputs,
                        target="cpu",
                        precision="fp32",
                        warmup=5,
                        min_samples=30,
                        min_seconds=settings.min_seconds,
                    ).report
                )
    return [
        CpuPoint(
            graph,
            min(report.p50_ms for report in reports),
            float(np.median([report.p99_ms for report in reports])),
            spec.name,
        )
        for (spec, graph), reports in zip(specs, rounds, strict=True)
    ]


def measured_report(spec: NetSpec, settings: CpuSettings, *, min_seconds: float = 1.0) -> LatencyReport:
    """Measure one network as it would be shipped in float32; every sample counts."""
    with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch:
        onnx = exported_student(spec, Path(scratch) / "student.onnx", opset=get_target("cpu").max_opset)
        options = BuildOptions(get_target("cpu"), threads=settings.threads)
        engine = BACKENDS["onnxruntime"].build(onnx, Path(scratch) / "engine", options)
        with BACKENDS["onnxruntime"].open(engine) as runner:
            inputs = random_inputs(onnx, 1, seed=0)
            return measure(runner, inputs, target="cpu", precision="fp32", min_seconds=min_seconds).report


def exported_student(spec: NetSpec, path: Path, *, opset: int) -> OnnxModel:
    """Export a network with drawn weights, as it is deployed: what is timed does not depend on them."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = deploy(build(spec))
    return export_onnx(module, path, input_shape=spec.input_shape, opset=opset)
