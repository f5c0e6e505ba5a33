r"""The OPS model: one smooth roofline a kernel, plus a launch floor in GPU clock cycles.

For a kernel with compute time `c` and traffic time `t`, both in seconds,

    time = (c^3 + t^3)^(1/3) + floor_cycles / clock,   latency = constant + sum over kernels.

`c = 2 MACs' / (peak x efficiency x occupancy)`: MACs' counts channels padded to what the tensor cores take; efficiency
depends on the kind; with `w` waves of 64 x 64 output tiles over the SMs, occupancy is `w^occupancy_exponent` below one
wave and `(w / ceil(w))^tail_exponent` above. `t = bytes / (bandwidth x efficiency)`, higher efficiency for what stays
in the L2 cache. Floors are in cycles because that is what carries over between boards of one generation.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd.latency.layers import Columns, Ints

Floats = npt.NDArray[np.float64]

TILE = 64
SMOOTHNESS = 3
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
        l2_bytes: Size of the L2 cache.
    """

    peak_ops_s: float
    bandwidth_bytes_s: float
    clock_hz: float
    sms: int
    bytes_per_elem: int
    channel_multiple: int
    l2_bytes: float


@dataclass(frozen=True)
class KernelParameters:
    """Fitted numbers, shared by the devices of one generation.

    Attributes:
        eff_kxk: Share of the peak reached by k x k convolutions.
        eff_1x1: The same for 1 x 1 convolutions and matrix products with weights.
        eff_depthwise: The same for depthwise convolutions.
        eff_grouped: The same for grouped convolutions.
        eff_matmul: The same for products of two activations.
        eff_bandwidth: Share of the memory bandwidth reached.
        l2_gain: Bandwidth of tensors that fit the L2 cache over that of memory.
        floor_cycles: Launch floor of a kernel.
        light_share: Part of the floor and traffic that concatenations keep (most are written in place).
        constant_us: Time of an inference that no kernel explains.
        occupancy_exponent: How occupancy falls below one wave of tiles.
        tail_exponent: How a partly filled last wave costs.
    """

    eff_kxk: float
    eff_1x1: float
    eff_depthwise: float
    eff_grouped: float
    eff_matmul: float
    eff_bandwidth: float
    l2_gain: float
    floor_cycles: float
    light_share: float
    constant_us: float
    occupancy_exponent: float
    tail_exponent: float


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
    floor = share * parameters.floor_cycles / hardware.clock_hz
    smooth = (compute**SMOOTHNESS + traffic**SMOOTHNESS) ** (1.0 / SMOOTHNESS)
    return KernelTimes(compute, traffic, floor, smooth + floor)


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
    is_product = (columns.gemm_k > 0) & ~columns.is_kind("conv_depthwise")
    area = np.maximum(columns.kernel_area, 1)
    inner = _rounded_up(columns.gemm_k // area, multiple) * area
    padded = columns.gemm_m * _rounded_up(columns.gemm_n, multiple) * inner * np.maximum(columns.groups, 1)
    return np.where(is_product, padded, columns.macs).astype(np.float64)


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
    operations = 2.0 * padded_macs(columns, hardware.channel_multiple)
    return operations / (hardware.peak_ops_s * efficiency * _occupancy(columns, hardware, parameters))


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
    moved = traffic_bytes(columns, hardware.bytes_per_elem)
    cached = 1.0 / (1.0 + (moved / hardware.l2_bytes) ** 2)
    speed = 1.0 + (parameters.l2_gain - 1.0) * cached
    return moved / (hardware.bandwidth_bytes_s * parameters.eff_bandwidth * speed)


def _rounded_up(values: Ints, multiple: int) -> Ints:
    return -(-values // multiple) * multiple
