"""Lines made by hand in the formats that public sources recorded; none was printed by a board of ours.

JetPack 5 and 6: docs.nvidia.com, "tegrastats utility" of Jetson Linux r35 and r36, and lines quoted in the issues and
tests of henrygd/beszel and rbonghi/jetson_stats. JetPack 7 on Thor (no GR3D_FREQ, or `GR3D_FREQ @[0,0,0]`, rails
VDD_GPU and VDD_CPU_SOC_MSS, temperatures `50C/50C`, three powers a rail): wendylabsinc/WendyOS pull request 1316 and
lines of L4T 38.2, 38.4 and 39.2 quoted in public test suites. Negative VDD_GPU on an idle Thor was reported too.
"""

import pytest

from edgekd.core.errors import DataError
from edgekd.profile.tegrastats import line_from_text, lines_from_text, power_samples

ORIN_NX_JP6 = (
    "03-05-2025 10:11:12 RAM 2200/7620MB (lfb 3x4MB) SWAP 5/3810MB (cached 1MB) "
    "CPU [1%@729,50%@1510,off,off,0%@729,0%@729] EMC_FREQ 12%@2133 GR3D_FREQ 61%@[611] NVDEC off VIC_FREQ 115 APE 200 "
    "cpu@47.5C soc2@46.75C gpu@50.218C tj@50.218C VDD_IN 6543mW/5001mW "
    "VDD_CPU_GPU_CV 2021mW/1000mW VDD_SOC 1500mW/1490mW"
)
AGX_JP5 = (
    "RAM 4096/30536MB (lfb 200x4MB) SWAP 0/15268MB (cached 0MB) CPU [10%@2201,5%@2201,off,off] EMC_FREQ 0% "
    "GR3D_FREQ 7% CV0@-256C CPU@50C VDD_GPU_SOC 3200mW/3210mW VDD_CPU_CV 1600mW/1610mW VIN_SYS_5V0 5000mW/5010mW "
    "VDDQ_VDD2_1V8AO 400mW/400mW"
)
XAVIER_JP5 = (
    "RAM 900/31920MB (lfb 1x4MB) CPU [1%@1190,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@318 AO@38C GPU@39.5C "
    "GPU 154mW/154mW CPU 309mW/309mW SOC 928mW/928mW CV 0mW/0mW VDDRQ 154mW/154mW SYS5V 1512mW/1512mW"
)
TX2_JP4 = (
    "RAM 3000/7859MB (lfb 5x4MB) SWAP 1/12122MB (cached 1MB) CPU [44%@1421,off] EMC_FREQ 1%@1866 GR3D_FREQ 0%@114 "
    "APE 150 MTS fg 1% bg 1% GPU@39.5C thermal@41.3C VDD_SYS_GPU 182/180 VDD_IN 5297/5290 VDD_SYS_CPU 1917/1900"
)
THOR_JP7 = (
    "05-17-2026 10:00:32 RAM 4208/125773MB (lfb 31x4MB) SWAP 0/2048MB (cached 0MB) CPU [1%@972,0%@972] EMC_FREQ 0%@665 "
    "GR3D_FREQ @[0,1575,0] NVENC0_FREQ @0 VIC off PVA0_FREQ off APE 300 cpu@34.468C tj@34.5C soc012@33.781C "
    "VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 4165mW/4165mW VIN_SYS_5V0 4126mW/4126mW VIN 15004mW/15096mW"
)
ORIN_JP72 = (
    "07-17-2026 15:15:27 RAM 8179/62817MB (lfb 1x4MB) CPU [35%@729,24%@729] cpu@51.968C/51.968C gpu@47.125C/48C "
    "VDD_GPU_SOC 4385mW/3787mW/4400mW VDD_CPU_CV 1196mW/897mW/1196mW VIN_SYS_5V0 5552mW/5274mW/5552mW"
)


def test_a_line_of_jetpack_6():
    line = line_from_text(ORIN_NX_JP6)
    assert (line.ram_used_mb, line.ram_total_mb) == (2200, 7620)
    assert (line.gpu_load, line.gpu_mhz, line.emc_mhz) == (0.61, 611.0, 2133.0)
    assert line.cpu_mhz == (729, 1510, 729, 729)
    assert line.temperatures_c == {"cpu": 47.5, "soc2": 46.75, "gpu": 50.218, "tj": 50.218}
    assert line.rails_mw == {"VDD_IN": 6543.0, "VDD_CPU_GPU_CV": 2021.0, "VDD_SOC": 1500.0}
    assert line_from_text(ORIN_NX_JP6.replace("10:11:12", "10:11:42")).stamp_s - line.stamp_s == 30


def test_a_line_of_jetpack_5_without_stamp_and_clock():
    line = line_from_text(AGX_JP5)
    assert (line.stamp_s, line.gpu_load, line.gpu_mhz, line.emc_mhz) == (None, 0.07, None, None)
    assert line.temperatures_c == {"CPU": 50.0}
    assert line.rails_mw["VDDQ_VDD2_1V8AO"] == 400.0


def test_rails_without_a_prefix_or_without_a_unit():
    assert line_from_text(XAVIER_JP5).rails_mw == {
        "GPU": 154, "CPU": 309, "SOC": 928, "CV": 0, "VDDRQ": 154, "SYS5V": 1512,
    }  # fmt: skip
    assert line_from_text(TX2_JP4).rails_mw == {"VDD_SYS_GPU": 182, "VDD_IN": 5297, "VDD_SYS_CPU": 1917}


def test_lines_of_jetpack_7():
    thor = line_from_text(THOR_JP7)
    assert (thor.gpu_load, thor.gpu_mhz) == (None, 1575.0)
    assert thor.rails_mw == {"VDD_GPU": -392, "VDD_CPU_SOC_MSS": 4165, "VIN_SYS_5V0": 4126, "VIN": 15004}
    orin = line_from_text(ORIN_JP72)
    assert (orin.gpu_load, orin.gpu_mhz, orin.emc_mhz) == (None, None, None)
    assert orin.rails_mw == {"VDD_GPU_SOC": 4385, "VDD_CPU_CV": 1196, "VIN_SYS_5V0": 5552}
    assert orin.temperatures_c == {"cpu": 51.968, "gpu": 47.125}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no line of tegrastats"),
        (f"{AGX_JP5}\n\npermission denied", "log, line 3: not a line of tegrastats, it has no field RAM"),
        (AGX_JP5.replace("RAM 4096/30536MB", "RAM lots"), "line 1: .*RAM used/totalMB"),
        (ORIN_NX_JP6.replace("03-05-2025", "13-45-2025"), "line 1: the time stamp '13-45-2025 10:11:12'"),
    ],
)
def test_what_is_no_log_is_refused_with_its_line(text, says):
    with pytest.raises(DataError, match=says):
        lines_from_text(text, "log")


def test_power_samples_are_spread_over_the_stamps():
    log = "\n".join(ORIN_NX_JP6.replace("10:11:12", f"10:11:{second:02}") for second in (12, 12, 13, 13, 14))
    samples = power_samples(lines_from_text(log))
    assert [sample.time_s for sample in samples] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert samples[0].rails_w == {"VDD_IN": 6.543, "VDD_CPU_GPU_CV": 2.021, "VDD_SOC": 1.5}
    assert [sample.time_s for sample in power_samples(lines_from_text(log), 100)][1] == 0.1


def test_lines_without_stamps_are_a_second_apart():
    assert [sample.time_s for sample in power_samples(lines_from_text(f"{AGX_JP5}\n{AGX_JP5}"))] == [0.0, 1.0]


def test_missing_rails_are_an_error_and_no_zero():
    without = AGX_JP5.partition("VDD_GPU_SOC")[0]
    with pytest.raises(DataError, match="line 1 of tegrastats has no power rails .*sudo"):
        power_samples(lines_from_text(without))
    with pytest.raises(DataError, match="line 2 .* other rails than the first: VIN_SYS_5V0"):
        power_samples(lines_from_text(f"{AGX_JP5}\n{AGX_JP5.replace('VIN_SYS_5V0 5000mW/5010mW ', '')}"))
