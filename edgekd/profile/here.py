"""Everything that can be measured of a network on this machine, in the order that disturbs the least."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.artifacts import OnnxModel
from edgekd.data import NetInputs
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.export import random_inputs
from edgekd.profile.document import Profile, Span
from edgekd.profile.host import SystemHost
from edgekd.profile.latency import Timing, measure
from edgekd.profile.layers import MeasuredLayer
from edgekd.profile.ort_layers import ort_layers
from edgekd.profile.power import Energy, energy_of
from edgekd.profile.rails import PowerSampler, Rail
from edgekd.targets import Target

_IDLE_S = 2.0


@dataclass(frozen=True)
class ProfileOptions:
    """What to measure.

    Attributes:
        batch: Batch size.
        threads: CPU threads.
        warmup: Runs before the first sample; None until latency is steady.
        soak_s: Seconds of running before the first sample.
        min_samples: Fewest runs to time.
        min_seconds: Shortest time of sampling.
        max_seconds: Longest time of warm-up, and again of sampling.
        has_layers: Time every layer too, in runs of their own afterwards.
        rails: Power rails to sample; none where energy is not asked for.
        idle_s: How long the idle board is sampled before, where there are rails.
    """

    batch: int = 1
    threads: int = 1
    warmup: int | None = None
    soak_s: float = 0.0
    min_samples: int = 300
    min_seconds: float = 1.0
    max_seconds: float = 30.0
    has_layers: bool = False
    rails: tuple[Rail, ...] = ()
    idle_s: float = _IDLE_S


def profile_here(onnx: OnnxModel, folder: Path, target: Target, options: ProfileOptions) -> Profile:
    """Build a network for ONNX Runtime on this CPU, and measure latency, memory, and what else the options ask for.

    Args:
        onnx: The network.
        folder: Where the engine is built.
        target: This machine.
        options: What to measure.

    Returns:
        The profile; its inputs are random.

    Raises:
        BuildError: ONNX Runtime refuses the network, or its logits are not finite.
        ConfigError: The options make no sense.
        PreconditionError: `onnxruntime` is missing, or a power sensor stopped answering.
    """
    backend = BACKENDS["onnxruntime"]
    inputs = random_inputs(onnx, options.batch, seed=0)
    idle = _idle_samples(options)
    before = SystemHost().state()
    engine = backend.build(onnx, folder, BuildOptions(target=target, batch=options.batch, threads=options.threads))
    with backend.open(engine) as runner, PowerSampler(options.rails) as sampler:
        timing = measure(
            runner,
            inputs,
            target=target.name,
            precision=onnx.precision,
            warmup=options.warmup,
            soak_s=options.soak_s,
            min_samples=options.min_samples,
            min_seconds=options.min_seconds,
            max_seconds=options.max_seconds,
        )
        after = SystemHost().state()
    memory = {"process_peak": after.peak_resident_mb}
    if before.resident_mb is not None and after.resident_mb is not None:
        memory["engine_and_runs"] = round(after.resident_mb - before.resident_mb, 1)
    return Profile(
        onnx.file.path,
        timing.report,
        samples_ms=timing.samples_ms,
        spans=_spans(timing),
        layers=_layers(onnx, inputs, options),
        energy=_energy(timing, sampler, idle),
        memory_mb={name: value for name, value in memory.items() if value is not None},
    )


def _layers(onnx: OnnxModel, inputs: NetInputs, options: ProfileOptions) -> tuple[MeasuredLayer, ...]:
    if not options.has_layers:
        return ()
    return ort_layers(Path(onnx.file.path), {onnx.input_name: inputs}, threads=options.threads)


def _idle_samples(options: ProfileOptions) -> PowerSampler | None:
    if not options.rails:
        return None
    with PowerSampler(options.rails) as sampler:
        time.sleep(options.idle_s)
    return sampler


def _spans(timing: Timing) -> tuple[Span, ...]:
    return tuple(
        Span("run", start, start + took) for start, took in zip(timing.starts_ms, timing.samples_ms, strict=True)
    )


def _energy(timing: Timing, sampler: PowerSampler, idle: PowerSampler | None) -> Energy | None:
    if idle is None:
        return None
    end_ms = timing.starts_ms[-1] + timing.samples_ms[-1]
    return energy_of(
        sampler.samples,
        timing.starts_ms[0] / 1e3,
        end_ms / 1e3,
        runs=len(timing.samples_ms),
        idle=idle.samples,
    )
