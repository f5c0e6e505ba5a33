"""The noun: what edgekd knows about one device in one power mode with one software line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekd.core.digest import sha256_of_json

TargetKind = Literal["jetson", "gpu", "cpu"]


@dataclass(frozen=True)
class PowerMode:
    """One power mode of a module, as `nvpmodel` names it.

    Attributes:
        name: Mode name (`"MAXN"`, `"15W"`).
        id: Number for `nvpmodel -m`, `None` where sources differ; numbers differ between modules and JetPack releases.
        status: Letter and source of the row.
        clock_mhz: Highest GPU clock in this mode; `None` where it is not known.
        sms: Streaming multiprocessors left on; `None` when it switches none off, as far as is known.
        emc_mhz: Highest memory clock; `None` where it is not known.
    """

    name: str
    id: int | None
    status: str
    clock_mhz: float | None = None
    sms: int | None = None
    emc_mhz: float | None = None


@dataclass(frozen=True)
class Target:
    """One device in one power mode, the top one unless another was asked for.

    Attributes:
        name: The name it was asked for by: its own, an alias, either with `@` and a power mode.
        device: The one name it is kept under.
        title: Name for people.
        kind: `"jetson"`, `"gpu"` or `"cpu"` (this machine).
        generation: Latency parameters it shares with its relatives (`"orin"`).
        sm: CUDA compute capability times ten.
        sms: Streaming multiprocessors.
        cuda_cores: fp32 lanes, all SMs together.
        tensor_cores: Tensor cores, all SMs together.
        clock_mhz: GPU clock that the peaks belong to.
        peaks_tflops: Dense peaks in TFLOPS or TOPS by precision (`fp32`, `tf32`, `fp16`, `int8`, `fp8`, ...).
        bandwidth_gb_s: Memory bandwidth.
        emc_mhz: Memory clock that the bandwidth belongs to.
        l2_bytes: Size of the L2 cache.
        memory_gb: Device memory.
        dla_cores: Deep-learning accelerators.
        dla_mhz: Their clock.
        power_mode: The mode the figures belong to.
        jetpack: JetPack release, Jetson only.
        tensorrt: TensorRT line; `None` where the user installs their own.
        cuda: CUDA line.
        python: Python on the device.
        max_opset: Highest ONNX opset to export for it: one that its relatives read too.
        read_opset: Highest ONNX opset that it is given.
        module_w: Power range of the module as published.
        advertised_tops: Marketing figure, sparse and with the DLAs; never used for a roofline.
        power_modes: Modes of the module.
        notes: What a reader must know before trusting the figures.
        sources: Status letter and source by field (S read in a source, D derived, M from memory).
        latency: Latency parameters fitted on this very board, as `edgekd.latency` keeps them; `None` for those of its
            generation.
    """

    name: str
    device: str
    title: str
    kind: TargetKind
    generation: str
    max_opset: int
    read_opset: int
    sm: int | None = None
    sms: int | None = None
    cuda_cores: int | None = None
    tensor_cores: int | None = None
    clock_mhz: float | None = None
    peaks_tflops: Mapping[str, float] = field(default_factory=dict)
    bandwidth_gb_s: float | None = None
    emc_mhz: float | None = None
    l2_bytes: int | None = None
    memory_gb: float | None = None
    dla_cores: int = 0
    dla_mhz: float | None = None
    power_mode: str = ""
    jetpack: str | None = None
    tensorrt: str | None = None
    cuda: str | None = None
    python: str | None = None
    module_w: str | None = None
    advertised_tops: float | None = None
    power_modes: tuple[PowerMode, ...] = ()
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    latency: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """Content digest; the alias it was asked for by takes no part."""
        document = dataclasses.asdict(self)
        del document["name"]
        return sha256_of_json(["Target", document])
