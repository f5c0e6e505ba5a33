"""The choice of layers to quantise, with scores through ONNX Runtime and gains of the target: measured here, or not."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.artifacts import OnnxModel
from edgekd.data import NetInputs, Split
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.export import random_inputs
from edgekd.pipeline.scoring import score_here
from edgekd.precision import (
    Calibrated,
    Gains,
    LayerChoice,
    choose_layers,
    measured_gains,
    predicted_gains,
    write_int8,
)
from edgekd.profile import measure
from edgekd.targets import Target, get_target

_ROUNDS = 5
_ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Layered:
    """A model mixed layer by layer.

    Attributes:
        choice: The mixture and why.
        model: Its model; the fp32 model itself where every layer stays float.
    """

    choice: LayerChoice
    model: OnnxModel


def layered(
    ready: Calibrated,
    path: Path,
    *,
    inputs: NetInputs,
    split: Split,
    target: Target,
    max_drop: float,
    threads: int = 1,
) -> Layered:
    """Choose the layers of a model to quantise and write it.

    Args:
        ready: A calibrated model.
        path: The file to write.
        inputs: Calibration inputs.
        split: Held-out inputs with labels, which scores are measured on.
        target: Device that gains are of; `cpu` is this machine, measured.
        max_drop: Score that may be lost against fp32.
        threads: CPU threads of the network when it is timed.

    Raises:
        ConfigError: `max_drop` is not a fraction.
        DataError: The network cannot be read as kernels.
        ExportError: A mixture cannot be written or run.
        TargetError: The target cannot be predicted in int8 and fp32.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-layers-") as scratch:
        gains = _gains(ready, target, Path(scratch), threads)
        choice = choose_layers(
            ready,
            inputs=inputs,
            score=lambda model: score_here(model, split, Path(scratch) / "engine", threads=threads),
            gains=gains,
            max_drop=max_drop,
            metric=split.task.metric,
        )
    kept = choice.chosen.kept_float
    model = ready.source if kept == ready.layers else write_int8(ready, path, kept_float=kept)
    return Layered(choice, model)


def _gains(ready: Calibrated, target: Target, scratch: Path, threads: int) -> Gains:
    if target.kind != "cpu":
        return predicted_gains(ready, target)
    return measured_gains(ready, lambda mixtures: _medians(ready, mixtures, scratch, threads))


def _medians(
    ready: Calibrated, mixtures: Mapping[str, tuple[str, ...]], scratch: Path, threads: int
) -> dict[str, float]:
    """Time mixtures in alternating rounds; the quietest counts, since other work only ever adds time."""
    backend, options = BACKENDS["onnxruntime"], BuildOptions(get_target("cpu"), threads=threads)
    with ExitStack() as stack:
        runners = {}
        for index, (name, kept) in enumerate(mixtures.items()):
            model = write_int8(ready, scratch / f"{index}.onnx", kept_float=kept)
            engine = backend.build(model, scratch / f"engine{index}", options)
            runners[name] = (stack.enter_context(backend.open(engine)), random_inputs(model, 1, seed=0))
        medians: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(_ROUNDS):
            for name, (runner, inputs) in runners.items():
                timing = measure(
                    runner,
                    inputs,
                    target="cpu",
                    precision="int8",
                    warmup=3,
                    min_samples=10,
                    min_seconds=_ROUND_SECONDS,
                )
                medians[name].append(timing.report.p50_ms)
    return {name: min(values) for name, values in medians.items()}
