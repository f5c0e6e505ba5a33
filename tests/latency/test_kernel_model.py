"""The kernel model against arithmetic done by hand."""

import dataclasses

import numpy as np
import pytest

from edgekd.latency import Hardware, KernelParameters, Layer, kernel_times
from edgekd.latency.kernel_model import latencies_s, padded_macs, traffic_bytes
from edgekd.latency.layers import Columns, concatenated

HARDWARE = Hardware(
    peak_ops_s=32e12,
    bandwidth_bytes_s=200e9,
    clock_hz=1e9,
    sms=16,
    bytes_per_elem=2,
    channel_multiple=8,
    l2_bytes=4 * 2**20,
)
PARAMETERS = KernelParameters(
    eff_kxk=0.5,
    eff_1x1=0.4,
    eff_depthwise=0.05,
    eff_grouped=0.1,
    eff_matmul=0.3,
    eff_bandwidth=0.5,
    l2_gain=1.0,
    floor_cycles=10_000,
    light_share=0.25,
    constant_us=30,
    occupancy_exponent=0.5,
    tail_exponent=0.4,
)
CONV = Layer("conv_kxk", 4096 * 64 * 576, 4096 * 64, 4096 * 64, 64 * 576, 4096, 64, 576, 1, 9, 1, 0)


def one(layer: Layer, hardware: Hardware = HARDWARE, parameters: KernelParameters = PARAMETERS) -> tuple[float, ...]:
    times = kernel_times(Columns.of([layer]), hardware, parameters)
    return tuple(float(getattr(times, field.name)[0]) * 1e6 for field in dataclasses.fields(times))


def test_convolution_time_equals_hand_calculation() -> None:
    # 150,994,944 MACs = 301,989,888 operations at 16 TOPS: 18.874368 us; 64 tiles on 16 SMs are 4 full waves.
    # (262,144 + 262,144 + 36,864) x 2 bytes at 100 GB/s: 11.22304 us. Floor: 10,000 cycles at 1 GHz: 10 us.
    compute, traffic, floor, total = one(CONV)
    assert compute == pytest.approx(18.874368)
    assert traffic == pytest.approx(11.22304)
    assert floor == pytest.approx(10.0)
    assert total == pytest.approx((18.874368**3 + 11.22304**3) ** (1 / 3) + 10.0)
    assert total == pytest.approx(30.1139, abs=0.0001)


def test_occupancy_falls_with_the_root_below_one_wave() -> None:
    # 4 tiles on 16 SMs: a quarter wave, occupancy (1/4)^0.5 = 1/2.
    small = dataclasses.replace(CONV, gemm_m=256, macs=CONV.macs // 16)
    assert one(small)[0] == pytest.approx(18.874368 / 16 * 2)


def test_partly_filled_last_wave_costs() -> None:
    # 65 x 64 rows: 65 tiles on 16 SMs are 4.0625 waves, 5 launched, occupancy 0.8125^0.4.
    layer = dataclasses.replace(CONV, gemm_m=65 * 64, macs=65 * 64 * 64 * 576)
    assert one(layer)[0] == pytest.approx(18.874368 * 65 / 64 / (4.0625 / 5) ** 0.4)


@pytest.mark.parametrize(
    ("kind", "efficiency"),
    [("conv_kxk", 0.5), ("conv_1x1", 0.4), ("conv_grouped", 0.1), ("gemm_weights", 0.4), ("matmul_activations", 0.3)],
)
def test_each_kind_has_its_efficiency(kind: str, efficiency: float) -> None:
    assert one(dataclasses.replace(CONV, kind=kind))[0] == pytest.approx(9.437184 / efficiency)


def test_depthwise_tiles_span_channels() -> None:
    # 1,024 pixels x 512 channels = 16 x 8 = 128 tiles: 8 full waves; 9 MACs an output, no padding.
    layer = Layer("conv_depthwise", 1024 * 512 * 9, 1, 1, 0, 1024, 1, 9, 512, 9)
    assert one(layer)[0] == pytest.approx(2 * 1024 * 512 * 9 / (32e12 * 0.05) * 1e6)


def test_channels_are_padded_to_the_tensor_core_multiple() -> None:
    # 3 input channels become 8, 10 output channels 16.
    layer = Layer("conv_kxk", 100 * 10 * 27, 1, 1, 270, 100, 10, 27, 1, 9)
    assert padded_macs(Columns.of([layer]), 8)[0] == 100 * 16 * 8 * 9


def test_input_is_read_as_float32() -> None:
    columns = Columns.of([Layer("input", 0, 100, 100), Layer("pointwise", 0, 100, 100)])
    assert traffic_bytes(columns, 2).tolist() == [600.0, 400.0]


def test_concatenation_keeps_its_share_of_floor_and_traffic() -> None:
    concat, copy = Layer("concat", 0, 1000, 1000), Layer("copy_or_gather", 0, 1000, 1000)
    assert one(concat)[3] == pytest.approx(0.25 * one(copy)[3])


def test_cached_traffic_is_faster_by_the_gain() -> None:
    layer = Layer("pool", 0, 2**19, 2**19)  # 2 MiB moved through a 2 MiB cache: halfway between memory and cache
    hardware, gained = dataclasses.replace(HARDWARE, l2_bytes=2**21), dataclasses.replace(PARAMETERS, l2_gain=3.0)
    assert one(layer, hardware)[1] == pytest.approx(2**21 / 100e9 * 1e6)
    assert one(layer, hardware, gained)[1] == pytest.approx(2**21 / 100e9 * 1e6 / 2)
    twice = dataclasses.replace(layer, in_elems=2**20, out_elems=2**20)  # 1 / (1 + 2^2) of the gain is left
    assert one(twice, hardware, gained)[1] == pytest.approx(2**22 / 100e9 * 1e6 / 1.4)


def test_floor_is_in_clock_cycles() -> None:
    slow = dataclasses.replace(HARDWARE, clock_hz=0.5e9)
    assert one(CONV, slow)[2] == pytest.approx(2 * one(CONV)[2])


def test_networks_are_summed_apart() -> None:
    pool = Layer("pool", 0, 10, 10)
    columns, graph = concatenated([Columns.of([CONV, pool]), Columns.of([pool])])
    assert graph.tolist() == [0, 0, 1]
    total = kernel_times(columns, HARDWARE, PARAMETERS).total_s
    sums = latencies_s(total, graph, 2, PARAMETERS)
    assert sums[0] == pytest.approx(30e-6 + (one(CONV)[3] + one(pool)[3]) * 1e-6)
    assert sums[1] == pytest.approx(30e-6 + one(pool)[3] * 1e-6)


def test_empty_network_costs_the_constant() -> None:
    assert latencies_s(np.array([]), np.array([], dtype=np.int64), 1, PARAMETERS).tolist() == [pytest.approx(30e-6)]
