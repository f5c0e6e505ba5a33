"""Every figure of every device, typed once more from the published tables, and every derived one computed again."""

import pytest

from edgekd.targets import Target, get_target, jetpack_lines, jetpack_of_l4t, target_names

# Module, sm, SMs, CUDA and tensor cores, MHz, GB/s, L2 MB, memory GB, DLA cores, advertised TOPS, W, dense peaks.
JETSON = """
jetson-agx-orin-64gb 87 16 2048 64 1300.5 204.8 4 64 2 275 15-60 fp32=5.3 tf32=21.3 fp16=42.6 bf16=42.6 int8=85.2
jetson-agx-orin-32gb 87 14 1792 56 930 204.8 4 32 2 200 15-40 fp32=3.3 tf32=13.3 fp16=26.7 bf16=26.7 int8=53.3
jetson-orin-nx-16gb 87 8 1024 32 918 102.4 2 16 2 100 10-25 fp32=1.88 tf32=7.5 fp16=15 bf16=15 int8=30.1
jetson-orin-nx-16gb-super 87 8 1024 32 1173 102.4 2 16 2 157 10-40 fp32=2.4 tf32=9.6 fp16=19.2 bf16=19.2 int8=38.4
jetson-orin-nx-8gb 87 8 1024 32 765 102.4 2 8 1 70 10-20 fp32=1.57 tf32=6.3 fp16=12.5 bf16=12.5 int8=25.1
jetson-orin-nx-8gb-super 87 8 1024 32 1173 102.4 2 8 1 117 10-40 fp32=2.4 tf32=9.6 fp16=19.2 bf16=19.2 int8=38.4
jetson-orin-nano-8gb 87 8 1024 32 625 68 2 8 0 40 7-15 fp32=1.28 tf32=5.1 fp16=10.2 bf16=10.2 int8=20.5
jetson-orin-nano-8gb-super 87 8 1024 32 1020 102 2 8 0 67 7-25 fp32=2.09 tf32=8.4 fp16=16.7 bf16=16.7 int8=33.4
jetson-orin-nano-4gb 87 4 512 16 625 34 2 4 0 20 7-10 fp32=0.64 tf32=2.6 fp16=5.1 bf16=5.1 int8=10.2
jetson-orin-nano-4gb-super 87 4 512 16 1020 51 2 4 0 34 7-25 fp32=1.04 tf32=4.2 fp16=8.4 bf16=8.4 int8=16.7
jetson-agx-xavier-32gb 72 8 512 64 1377 136.5 0.5 32 2 32 10-30 fp32=1.41 fp16=11.3 int8=22.6
jetson-xavier-nx 72 6 384 48 1100 59.7 0.5 8 2 21 10-20 fp32=0.84 fp16=6.8 int8=13.5
jetson-xavier-nx-16gb 72 6 384 48 1100 59.7 0.5 16 2 21 10-20 fp32=0.84 fp16=6.8 int8=13.5
jetson-tx2 62 2 256 0 1300 59.7 0.5 8 0 - 7.5-15 fp32=0.67 fp16=1.33
jetson-nano 53 1 128 0 921.6 25.6 0.25 4 0 0.5 5-10 fp32=0.236 fp16=0.472
jetson-agx-thor 110 20 2560 96 1575 273 32 128 0 2070 40-130 fp32=8 tf32=129 fp16=258 bf16=258 int8=517 fp8=517 fp4=1035
jetson-t4000 110 12 1536 64 1530 273 - 64 0 1200 40-70 fp32=4.7 tf32=75 fp16=150 bf16=150 int8=300 fp8=300 fp4=600
drive-orin 87 16 2048 64 1300 204.8 4 32 2 254 - fp32=5.3 tf32=21 fp16=42 bf16=42 int8=84
drive-thor 110 20 2560 - - 273 - - 0 - -
dgx-spark 121 48 6144 - 2420 273 24 128 0 1000 140 fp32=29.7 fp16=125 bf16=125 int8=250 fp8=250 fp4=500
"""
# name: (sm, SMs, boost MHz, FP32, TF32, FP16 by fp16 / fp32 accumulation, BF16, INT8, FP8 likewise, GB, GB/s, L2 MB, W)
GPUS = {
    "rtx-3060-12gb": (86, 28, 1777, 12.7, 12.7, (51, 25.5), 25.5, 102, (None, None), 12, 360, 3, "170"),
    "rtx-3080-ti": (86, 80, 1665, 34.1, 34, (136, 68), 68, 273, (None, None), 12, 912, 6, "350"),
    "rtx-3090": (86, 82, 1695, 35.6, 35.6, (142, 71), 71, 284, (None, None), 24, 936, 6, "350"),
    "rtx-4070": (89, 46, 2475, 29.1, 29, (117, 58), 58, 233, (233, 117), 12, 504, 36, "200"),
    "rtx-4090": (89, 128, 2520, 82.6, 82.6, (330, 165), 165, 661, (661, 330), 24, 1008, 72, "450"),
    "rtx-5080": (120, 84, 2617, 56.3, 56, (225, 113), 113, 450, (450, 225), 16, 960, 64, "360"),
    "rtx-5090": (120, 170, 2407, 104.8, 105, (419, 210), 210, 838, (838, 419), 32, 1792, 96, "575"),
    "a2": (86, 10, 1770, 4.5, 9, (18, None), 18, 36, (None, None), 16, 200, 2, "40-60"),
    "t4": (75, 40, 1590, 8.1, None, (65, None), None, 130, (None, None), 16, 320, 4, "70"),
    "l4": (89, 58, 2040, 30.3, 60, (121, None), 121, 242, (242, None), 24, 300, 48, "72"),
    "a10": (86, 72, 1695, 31.2, 62.5, (125, None), 125, 250, (None, None), 24, 600, 6, "150"),
    "a100-40gb": (80, 108, 1410, 19.5, 156, (312, None), 312, 624, (None, None), 40, 1555, 40, "400"),
    "a100-80gb": (80, 108, 1410, 19.5, 156, (312, None), 312, 624, (None, None), 80, 2039, 40, "400"),
    "h100-sxm": (90, 132, 1830, 67, 495, (989, None), 989, 1979, (1979, None), 80, 3350, 50, "700"),
    "h200": (
        90,
        132,
        1830,
        67,
        495,
        (989, None),
        989,
        1979,
        (1979, None),
        141,
        4800,
        60,
        "700",
    ),  # L2 as the driver of one says
    "v100": (70, 80, 1530, 15.7, None, (125, None), None, None, (None, None), 16, 900, 6, "300"),
    "titan-rtx": (75, 72, 1770, 16.3, None, (130, None), None, 261, (None, None), 24, 672, 6, "280"),
    "rtx-2080-ti": (75, 68, 1545, 13.4, None, (108, 54), None, 215, (None, None), 11, 616, 5.5, "250"),
    "gtx-1080-ti": (61, 28, 1582, 11.3, None, (None, None), None, 45, (None, None), 11, 484, 2.8, "250"),
}
# Fused multiply-adds per clock per SM, dense: the derivation table.
FMA = {
    53: {"fp32": 128, "fp16": 256},
    62: {"fp32": 128, "fp16": 256},
    72: {"fp32": 64, "fp16": 512, "int8": 1024},
    87: {"fp32": 128, "fp16": 1024, "bf16": 1024, "int8": 2048, "tf32": 512},
    110: {"fp32": 128, "fp16": 4096, "bf16": 4096, "int8": 8192, "tf32": 2048, "fp8": 8192, "fp4": 16384},
    121: {"fp32": 128, "fp4": 2048},
}
ROUNDED = {"dgx-spark": 0.06, "jetson-t4000": 0.02}
"""Figures published as "about": fp4 is half the advertised sparse figure there, T4000 has an approximate clock."""


def test_every_device_is_in_one_of_the_tables() -> None:
    assert {*(row.split()[0] for row in JETSON.strip().splitlines()), *GPUS, "cpu"} == set(target_names())


def cell(value: object) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


@pytest.mark.parametrize("row", JETSON.strip().splitlines(), ids=lambda row: row.split()[0])
def test_module_has_the_published_figures(row: str) -> None:
    t = get_target(row.split(maxsplit=1)[0])
    l2_mb = None if t.l2_bytes is None else t.l2_bytes / 2**20
    shape = (t.sm, t.sms, t.cuda_cores, t.tensor_cores, t.clock_mhz, t.bandwidth_gb_s, l2_mb, t.memory_gb)
    rest = (t.dla_cores, t.advertised_tops, t.module_w)
    peaks = [f"{precision}={peak:g}" for precision, peak in t.peaks_tflops.items()]
    assert " ".join([t.name, *map(cell, (*shape, *rest)), *peaks]) == row


@pytest.mark.parametrize("name", GPUS)
def test_gpu_has_the_data_sheet_figures(name: str) -> None:
    t = get_target(name)
    peak = t.peaks_tflops.get
    found = (
        *(t.sm, t.sms, t.clock_mhz, peak("fp32"), peak("tf32"), (peak("fp16"), peak("fp16_fp32_accumulate"))),
        *(peak("bf16"), peak("int8"), (peak("fp8"), peak("fp8_fp32_accumulate")), t.memory_gb, t.bandwidth_gb_s),
        *(round(t.l2_bytes / 2**20, 3), t.module_w),
    )
    assert found == GPUS[name]
    assert t.sources["clock_mhz"] == "M"


def derived(target: Target) -> list[str]:
    return [p for p in target.peaks_tflops if target.sources[f"peaks_tflops.{p}"].startswith("D")]


@pytest.mark.parametrize("name", [name for name in target_names() if derived(get_target(name))])
def test_derived_peak_is_sms_x_fma_x_2_x_clock(name: str) -> None:
    target = get_target(name)
    for precision in derived(target):
        computed = 2e-6 * FMA[target.sm][precision] * target.sms * target.clock_mhz
        peak = target.peaks_tflops[precision]
        last_place = 10.0 ** -len(f"{peak:g}".partition(".")[2])
        assert peak == pytest.approx(computed, abs=0.51 * last_place, rel=ROUNDED.get(name, 1e-9)), precision


def test_every_orin_peak_is_derived_but_those_read_in_a_source() -> None:
    target = get_target("jetson-agx-orin-64gb")
    assert derived(target) == ["tf32", "fp16", "bf16"]
    assert target.sources["peaks_tflops.int8"] == "S [2][9]"
    assert derived(get_target("jetson-orin-nx-8gb-super")) == ["fp32", "tf32", "fp16", "bf16", "int8"]
    assert derived(get_target("jetson-agx-thor")) == ["tf32"]


@pytest.mark.parametrize(
    ("name", "bus_bits"),
    [
        ("jetson-agx-orin-64gb", 256),
        ("jetson-orin-nx-16gb", 128),
        ("jetson-orin-nano-8gb", 128),
        ("jetson-orin-nano-4gb", 64),
        ("jetson-agx-xavier-32gb", 256),
        ("jetson-xavier-nx", 128),
        ("jetson-nano", 64),
    ],
)
def test_memory_clock_times_bus_is_the_bandwidth(name: str, bus_bits: int) -> None:
    target = get_target(name)
    assert 2e-3 * target.emc_mhz * bus_bits / 8 == pytest.approx(target.bandwidth_gb_s, rel=0.01)
    assert target.sources["emc_mhz"][0] in "SD"


MODES = [
    ("jetson-agx-orin-64gb", "MAXN", 0, 1300.5, 16, 3200),
    ("jetson-agx-orin-64gb", "15W", 1, 420.75, 4, 2133),
    ("jetson-agx-orin-64gb", "30W", 2, 624.75, 8, 3200),
    ("jetson-agx-orin-64gb", "50W", 3, 828.75, 16, 3200),
    ("jetson-agx-orin-32gb", "MAXN", 0, None, None, None),
    ("jetson-agx-orin-32gb", "15W", 1, None, None, None),
    ("jetson-agx-orin-32gb", "30W", 2, None, None, None),
    ("jetson-agx-orin-32gb", "40W", 3, None, None, None),
    ("jetson-orin-nano-8gb-super", "15W", 0, 612, None, 2133),
    ("jetson-orin-nano-8gb-super", "25W", 1, 918, None, 3199),
    ("jetson-orin-nano-8gb-super", "MAXN_SUPER", 2, 1020, None, 3199),
    ("jetson-orin-nano-8gb-super", "7W", 3, 408, None, 2133),
    ("jetson-agx-xavier-32gb", "MAXN", 0, 1377, 8, 2133),
    ("jetson-agx-xavier-32gb", "10W", 1, 520, 4, 1066),
    ("jetson-agx-xavier-32gb", "15W", 2, 670, 8, 1333),
    ("jetson-agx-xavier-32gb", "30W_ALL", 3, 900, 8, 1600),
    ("jetson-agx-xavier-32gb", "30W_6CORE", 4, 900, 8, 1600),
    ("jetson-agx-xavier-32gb", "30W_4CORE", 5, 900, 8, 1600),
    ("jetson-agx-xavier-32gb", "30W_2CORE", 6, 900, 8, 1600),
    ("jetson-tx2", "Max-N", 0, 1300, None, None),
    ("jetson-tx2", "Max-Q", 1, 850, None, None),
    ("jetson-tx2", "Max-P core-all", 2, 1120, None, None),
    ("jetson-tx2", "Max-P ARM", 3, 1120, None, None),
    ("jetson-tx2", "Max-P Denver", 4, 1120, None, None),
    ("jetson-nano", "MAXN", 0, 921.6, None, 1600),
    ("jetson-nano", "5W", 1, 640, None, 1600),
]
"""Module, mode, number, GPU MHz, SMs, memory MHz."""


@pytest.mark.parametrize("name", dict.fromkeys(row[0] for row in MODES))
def test_power_modes_are_the_published_ones(name: str) -> None:
    found = [(name, m.name, m.id, m.clock_mhz, m.sms, m.emc_mhz) for m in get_target(name).power_modes]
    assert found == [row for row in MODES if row[0] == name]


def test_sms_of_an_orin_mode_follow_from_its_published_sparse_tops() -> None:
    modes = {mode.name: mode for mode in get_target("jetson-agx-orin-64gb").power_modes}
    for name, sparse_tops in {"MAXN": 171, "15W": 14, "30W": 41, "50W": 109}.items():
        mode = modes[name]
        assert 2 * 2e-6 * 2048 * mode.sms * mode.clock_mhz == pytest.approx(sparse_tops, rel=0.02), name


@pytest.mark.parametrize(
    ("name", "mhz"),
    [
        ("jetson-agx-orin-64gb", 1600),
        ("jetson-orin-nx-16gb", 614),
        ("jetson-agx-xavier-32gb", 1400),
        ("jetson-xavier-nx", 1100),
    ],
)
def test_dla_clock(name: str, mhz: float) -> None:
    assert get_target(name).dla_mhz == mhz
    assert get_target(name).sources["dla_mhz"].startswith("S")


# (JetPack, L4T, CUDA, TensorRT, cuDNN, Python, Ubuntu, architectures)
JETPACK = [
    ("4.6", "32.6.1", "10.2", "8.0.1", "8.2.1", "3.6", "18.04", (53, 62, 72)),
    ("4.6.1", "32.7.1", "10.2", "8.2.1", "8.2.1", "3.6", "18.04", (53, 62, 72)),
    ("4.6.5", "32.7.5", "10.2", "8.2.1", "8.2.1", "3.6", "18.04", (53, 62, 72)),
    ("5.0.2", "35.1", "11.4", "8.4.1", "8.4.1", "3.8", "20.04", (72, 87)),
    ("5.1", "35.2.1", "11.4", "8.5.2", "8.6.0", "3.8", "20.04", (72, 87)),
    ("5.1.1", "35.3.1", "11.4", "8.5.2", "8.6.0", "3.8", "20.04", (72, 87)),
    ("5.1.2", "35.4.1", "11.4", "8.5.2", "8.6.0", "3.8", "20.04", (72, 87)),
    ("5.1.3", "35.5.0", "11.4", "8.5.2", "8.6.0", "3.8", "20.04", (72, 87)),
    ("5.1.5", "35.6.1", "11.4", "8.5.2", "8.6.0", "3.8", "20.04", (72, 87)),
    ("6.0", "36.3", "12.2", "8.6.2", "8.9.4", "3.10", "22.04", (87,)),
    ("6.1", "36.4.0", "12.6", "10.3", "9.3", "3.10", "22.04", (87,)),
    ("6.1.1", "36.4.2", "12.6", "10.3", "9.3", "3.10", "22.04", (87,)),
    ("6.2", "36.4.3", "12.6", "10.3", "9.3", "3.10", "22.04", (87,)),
    ("6.2.1", "36.4.4", "12.6", "10.3", "9.3", "3.10", "22.04", (87,)),
    ("6.2.2", "36.5.0", "12.6", "10.3", "9.3", "3.10", "22.04", (87,)),
    ("7.0", "38.2", "13.0", "10.13", "9.12", "3.12", "24.04", (110,)),
    ("7.0", "38.2.1", "13.0", "10.13", "9.12", "3.12", "24.04", (110,)),
    ("7.1", "38.4", "13.0", "10.13", None, "3.12", "24.04", (110,)),
    ("7.2", "39.2", "13.2.1", "10.16.2", None, "3.12", "24.04", (87, 110)),
    ("7.2.1", "39.2.1", "13.2.2", "10.16.2.10", None, "3.12", "24.04", (87, 110)),
]


@pytest.mark.parametrize("row", JETPACK, ids=lambda row: row[1])
def test_l4t_says_what_runs_on_the_board(row: tuple) -> None:
    release, line = jetpack_of_l4t(row[1])
    found = (release, line.cuda, line.tensorrt, line.cudnn, line.python, line.ubuntu, line.sm)
    assert found == (row[0], *row[2:])
    assert jetpack_of_l4t(f"{row[1]}.0") == (release, line)


def test_unknown_l4t_is_no_guess() -> None:
    assert jetpack_of_l4t("36.9") is None


def test_every_line_pairs_its_releases_and_carries_a_status() -> None:
    for line in jetpack_lines():
        assert len(line.jetpack) == len(line.l4t)
        assert line.status[0] in "SM"


@pytest.mark.parametrize(
    "name", [n for n in target_names() if get_target(n).kind == "jetson" and n.startswith("jetson")]
)
def test_software_of_a_module_is_a_line_of_its_architecture(name: str) -> None:
    target = get_target(name)
    (line,) = [line for line in jetpack_lines() if target.jetpack in line.jetpack and target.sm in line.sm]
    assert (line.python, line.cuda) == (target.python, target.cuda)
    assert line.tensorrt.startswith(f"{target.tensorrt}")
