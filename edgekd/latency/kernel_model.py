r"""The OPS model: arithmetic and memory traffic of every kernel, plus a launch floor in GPU clock cycles.

For a kernel with compute time `c` and traffic time `t`, both in seconds,

    time = ((c + t)^overlap + (floor_cycles / clock)^overlap)^(1 / overlap),   latency = constant + sum over kernels.

`c = 2 MACs' / (peak x efficiency x occupancy)`: MACs' counts channels padded to what the tensor cores take, and grows
by `1 + half_columns / columns` and `1 + half_inner / inner length` (padded too), because a narrow product reads its
operands for few results and a short one hardly leaves its prologue; efficiency depends on the kind; with `w` waves of
64 x 64 output tiles over the SMs, occupancy is `w^occupancy_exponent` below one wave and `(w / ceil(w))^tail_exponent`
above.
`t = bytes / (bandwidth x efficiency) + bytes / (SMs x clock x chip_bytes)`: memory and the way from the L2 cache to the
SMs, one after the other. Everything but memory scales with SMs and clock, which is what carries over between boards of
one generation; so is the floor in cycles. Arithmetic and traffic add up: classifiers on T4 and detectors on Orin say
so both. The floor adds to them where `overlap` is 1; above that, launches run ahead of the kernels before them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.latency.layers import Columns, Ints

Floats = npt.NDArray[np.float64]

TILE = 64
INPUT_BYTES = 4


@dataclass(frozen=True)
class Hardware:
    """What the model needs of a device at one precision.

    Attributes:
        peak_ops_s: Dense operations a second at this precision and clock.
        bandwidth_bytes_s: Memory bandwidth.
        clock_hz: GPU clock.
        sms: Streaming multiprocessors.
        bytes_per_elem: Size of an activation or weight.
        channel_multiple: Channels are padded to a multiple of this.
    """

    peak_ops_s: float
    bandwidth_bytes_s: float
    clock_hz: float
    sms: int
    bytes_per_elem: int
    channel_multiple: int


@dataclass(frozen=True)
class KernelParameters:
    """Fitted numbers, shared by the devices of one generation.

    Attributes:
        eff_kxk: Share of the peak that wide and long k x k convolutions approach.
        eff_1x1: The same for 1 x 1 convolutions and matrix products with weights.
        eff_depthwise: The same for depthwise convolutions.
        eff_grouped: The same for grouped convolutions.
        eff_matmul: The same for products of two activations.
        half_columns: Columns of a product at which half of that share is left.
        half_inner: Inner length of a product at which half of it is left.
        eff_bandwidth: Share of the memory bandwidth reached.
        chip_bytes: Bytes a clock cycle that each SM gets from the L2 cache.
        floor_cycles: Launch floor of a kernel.
        light_share: Part of the floor and traffic that concatenations keep (most are written in place).
        constant_us: Time of an inference that no kernel explains.
        overlap: How far launches run ahead: 1 where the floor adds to the work, large where the longer of both counts.
        occupancy_exponent: How occupancy falls below one wave of tiles.
        tail_exponent: How a partly filled last wave costs.
        group_share: Part of a floor that each further group of a grouped convolution costs; runtimes that launch one
            group after another have it, others next to nothing.
        gate_cost: Traffic of a gate over that of other element-wise kernels; 1 where the runtime runs it like them.
        host_gb_s: Rate at which the network's input is copied to the device inside the time measured; very large where
            it lies there already.
    """

    eff_kxk: float
    eff_1x1: float
    eff_depthwise: float
    eff_grouped: float
    eff_matmul: float
    half_columns: float
    half_inner: float
    eff_bandwidth: float
    chip_bytes: float
    floor_cycles: float
    light_share: float
    constant_us: float
    overlap: float
    occupancy_exponent: float
    tail_exponent: float
    group_share: float
    gate_cost: float
    host_gb_s: float


PARAMETER_NAMES: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(KernelParameters))


@dataclass(frozen=True)
class KernelTimes:
    """Times of each layer `[L]` in seconds.

    Attributes:
        compute_s: Arithmetic alone.
        traffic_s: Memory alone.
        floor_s: Launch floor.
        total_s: The kernel.
    """

    compute_s: Floats
    traffic_s: Floats
    floor_s: Floats
    total_s: Floats


def kernel_times(columns: Columns, hardware: Hardware, parameters: KernelParameters) -> KernelTimes:
    """Time every layer on its own.

    Args:
        columns: Layers `[L]`.
        hardware: The device at one precision.
        parameters: Fitted numbers of its generation.

    Returns:
        Times `[L]` in seconds.
    """
    compute = _compute_seconds(columns, hardware, parameters)
    share = np.where(columns.is_kind("concat"), parameters.light_share, 1.0)
    traffic = share * _traffic_seconds(columns, hardware, parameters)
    launches = share + np.where(
        columns.is_kind("conv_grouped"), parameters.group_share * np.maximum(columns.groups - 1, 0), 0.0
    )
    floor = launches * parameters.floor_cycles / hardware.clock_hz
    work, q = compute + traffic, parameters.overlap
    return KernelTimes(compute, traffic, floor, (work**q + floor**q) ** (1.0 / q))


def latencies_s(total_s: Floats, graph: Ints, count: int, parameters: KernelParameters) -> Floats:
    """Add kernels up to networks.

    Args:
        total_s: Kernel times `[L]`.
        graph: Index of the network of each kernel `[L]`.
        count: Number of networks `G`.
        parameters: Fitted numbers, for the constant.

    Returns:
        Latency of each network `[G]` in seconds.
    """
    sums = np.bincount(graph, weights=total_s, minlength=count).astype(np.float64)
    return parameters.constant_us * 1e-6 + sums


def traffic_bytes(columns: Columns, bytes_per_elem: int) -> Floats:
    """Return the bytes each layer moves `[L]`; the network's input arrives as float32."""
    read = np.where(columns.is_kind("input"), INPUT_BYTES, bytes_per_elem) * columns.in_elems
    moved: Floats = (read + bytes_per_elem * (columns.out_elems + columns.weight_elems)).astype(np.float64)
    return moved


def padded_macs(columns: Columns, multiple: int) -> Floats:
    """Return the MACs each layer really executes `[L]`, inner and output channels padded to `multiple`."""
    wide, inner = _padded(columns, multiple)
    padded = columns.gemm_m.astype(np.float64) * wide * inner * np.maximum(columns.groups, 1)
    return np.where(_is_product(columns), padded, columns.macs)


def _is_product(columns: Columns) -> npt.NDArray[np.bool_]:
    return (columns.gemm_k > 0) & ~columns.is_kind("conv_depthwise")


def _padded(columns: Columns, multiple: int) -> tuple[Ints, Ints]:
    """Return columns and inner length of each product `[L]` with channels padded to `multiple`."""
    area = np.maximum(columns.kernel_area, 1)
    return _rounded_up(columns.gemm_n, multiple), _rounded_up(columns.gemm_k // area, multiple) * area


def _compute_seconds(columns: Columns, hardware: Hardware, parameters: KernelParameters) -> Floats:
    efficiency = np.select(
        [
            columns.is_kind("conv_kxk"),
            columns.is_kind("conv_depthwise"),
            columns.is_kind("conv_grouped"),
            columns.is_kind("matmul_activations"),
        ],
        [parameters.eff_kxk, parameters.eff_depthwise, parameters.eff_grouped, parameters.eff_matmul],
        parameters.eff_1x1,
    )
    operations = 2.0 * padded_macs(columns, hardware.channel_multiple) * _thinness(columns, hardware, parameters)
    return operations / (hardware.peak_ops_s * efficiency * _occupancy(columns, hardware, parameters))


def _thinness(columns: Columns, hardware: Hardware, parameters: KernelParameters) -> Floats:
    """Factor by which narrow and short products are slower than wide and long ones `[L]`, as they are padded."""
    wide, inner = _padded(columns, hardware.channel_multiple)
    narrow = 1.0 + parameters.half_columns / np.maximum(wide, 1)
    short = 1.0 + parameters.half_inner / np.maximum(inner, 1)
    return np.where(_is_product(columns), narrow * short, 1.0)


def _occupancy(columns: Columns, hardware: Hardware, parameters: KernelParameters) -> Floats:
    is_depthwise = columns.is_kind("conv_depthwise")
    width = np.where(is_depthwise, columns.gemm_n * columns.groups, columns.gemm_n)
    count = np.where(is_depthwise, 1, np.maximum(columns.groups, 1))
    tiles = np.ceil(columns.gemm_m / TILE) * np.ceil(width / TILE) * count
    waves = np.maximum(tiles, 1.0) / hardware.sms
    occupancy: Floats = np.where(
        waves < 1.0,
        waves**parameters.occupancy_exponent,
        (waves / np.ceil(waves)) ** parameters.tail_exponent,
    )
    return occupancy


def _traffic_seconds(columns: Columns, hardware: Hardware, parameters: KernelParameters) -> Floats:
    cost = np.where(columns.is_kind("gate"), parameters.gate_cost, 1.0)
    moved = cost * traffic_bytes(columns, hardware.bytes_per_elem)
    memory = moved / (hardware.bandwidth_bytes_s * parameters.eff_bandwidth)
    chip = moved / (hardware.sms * hardware.clock_hz * parameters.chip_bytes)
    copied = np.where(columns.is_kind("input"), INPUT_BYTES * columns.in_elems, 0) / (parameters.host_gb_s * 1e9)
    seconds: Floats = memory + chip + copied
    return seconds


def _rounded_up(values: Ints, multiple: int) -> Ints:
    return -(-values // multiple) * multiple
