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
)
PARAMETERS = KernelParameters(
    eff_kxk=0.5,
    eff_1x1=0.4,
    eff_depthwise=0.05,
    eff_grouped=0.1,
    eff_matmul=0.3,
    eff_bandwidth=0.5,
    half_columns=1e-9,
    half_inner=1e-9,
    chip_bytes=1e9,
    floor_cycles=10_000,
    light_share=0.25,
    constant_us=30,
    overlap=1.0,
    occupancy_exponent=0.5,
    tail_exponent=0.4,
    group_share=1e-9,
    gate_cost=1.0,
    host_gb_s=1e9,
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
    assert total == pytest.approx(18.874368 + 11.22304 + 10.0)


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


@pytest.mark.parametrize("kind", ["conv_kxk", "conv_grouped"])
def test_products_of_the_same_padded_width_take_the_same_arithmetic(kind: str) -> None:
    # 1 column or 3 input channels are executed as 8.
    padded = Layer(kind, 4096 * 8 * 72, 1, 1, 1, 4096, 8, 72, 1, 9)
    parameters = dataclasses.replace(PARAMETERS, half_columns=32.0, half_inner=144.0)
    for columns, inner in ((1, 72), (4, 72), (8, 9), (8, 27)):
        narrow = dataclasses.replace(padded, macs=4096 * columns * inner, gemm_n=columns, gemm_k=inner)
        assert one(narrow, parameters=parameters)[0] == one(padded, parameters=parameters)[0]
    wider = dataclasses.replace(padded, macs=4096 * 9 * 72, gemm_n=9)
    assert one(wider, parameters=parameters)[0] > one(padded, parameters=parameters)[0]


def test_input_is_read_as_float32() -> None:
    columns = Columns.of([Layer("input", 0, 100, 100), Layer("pointwise", 0, 100, 100)])
    assert traffic_bytes(columns, 2).tolist() == [600.0, 400.0]


def test_concatenation_keeps_its_share_of_floor_and_traffic() -> None:
    concat, copy = Layer("concat", 0, 1000, 1000), Layer("copy_or_gather", 0, 1000, 1000)
    assert one(concat)[3] == pytest.approx(0.25 * one(copy)[3])


def with_(**values: float) -> KernelParameters:
    return dataclasses.replace(PARAMETERS, **values)


def test_narrow_and_short_products_are_slower() -> None:
    # 64 columns at half_columns 32 are 1.5 x slower; an inner length of 576 at half_inner 144 1.25 x.
    assert one(CONV, parameters=with_(half_columns=32.0))[0] == pytest.approx(18.874368 * 1.5)
    assert one(CONV, parameters=with_(half_inner=144.0))[0] == pytest.approx(18.874368 * 1.25)
    depthwise = Layer("conv_depthwise", 1024 * 512 * 9, 1, 1, 0, 1024, 1, 9, 512, 9)
    assert one(depthwise, parameters=with_(half_columns=32.0, half_inner=144.0)) == one(depthwise)


def test_traffic_passes_memory_and_then_the_chip() -> None:
    # 4,000 bytes at 100 GB/s: 0.04 us; 16 SMs x 1 GHz x 25 bytes a cycle are 400 GB/s: 0.01 us more.
    layer = Layer("pool", 0, 1000, 1000)
    assert one(layer, parameters=with_(chip_bytes=25.0))[1] == pytest.approx(0.05)
    fast = dataclasses.replace(HARDWARE, clock_hz=2e9)
    assert one(layer, fast, with_(chip_bytes=25.0))[1] == pytest.approx(0.045)


def test_launches_that_run_ahead_hide_behind_the_work() -> None:
    work = 18.874368 + 11.22304
    assert one(CONV, parameters=with_(overlap=2.0))[3] == pytest.approx((work**2 + 10.0**2) ** 0.5)
    assert one(CONV, parameters=with_(overlap=50.0))[3] == pytest.approx(work)


def test_groups_launched_in_turn_pay_for_each() -> None:
    # 32 groups at half a floor each after the first: 1 + 31 x 0.5 = 16.5 floors of 10 us.
    layer = dataclasses.replace(CONV, kind="conv_grouped", groups=32)
    assert one(layer, parameters=with_(group_share=0.5))[2] == pytest.approx(165.0)
    assert one(CONV, parameters=with_(group_share=0.5))[2] == pytest.approx(10.0)


def test_gates_cost_more_traffic_where_they_run_apart() -> None:
    gate, other = Layer("gate", 0, 1000, 1000), Layer("pointwise", 0, 1000, 1000)
    assert one(gate, parameters=with_(gate_cost=5.0))[1] == pytest.approx(5 * one(other)[1])
    assert one(other, parameters=with_(gate_cost=5.0))[1] == pytest.approx(one(other)[1])


def test_input_is_copied_from_the_host_where_that_was_timed() -> None:
    # 1,000 floats are 4,000 bytes: 1 us at 4 GB/s, over what reading and writing them takes.
    entry, other = Layer("input", 0, 1000, 1000), Layer("pool", 0, 1000, 1000)
    assert one(entry, parameters=with_(host_gb_s=4.0))[1] == pytest.approx(one(entry)[1] + 1.0)
    assert one(other, parameters=with_(host_gb_s=4.0))[1] == pytest.approx(one(other)[1])


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
