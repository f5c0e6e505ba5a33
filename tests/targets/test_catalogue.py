"""Targets by name: aliases, near names, what is said about them, and what importing them costs."""

import subprocess
import sys

import pytest

from edgekd.core.errors import ConfigError
from edgekd.targets import aliases, describe, get_target, target_names

# Dense fp16 (or fp32 where there is no fp16) peaks and bandwidth, typed from the published tables.
PUBLISHED = {
    "jetson-agx-orin-64gb": (42.6, 204.8, 16, 1300.5),
    "jetson-agx-orin-32gb": (26.7, 204.8, 14, 930),
    "jetson-orin-nx-16gb": (15.0, 102.4, 8, 918),
    "jetson-orin-nx-16gb-super": (19.2, 102.4, 8, 1173),
    "jetson-orin-nx-8gb": (12.5, 102.4, 8, 765),
    "jetson-orin-nano-8gb": (10.2, 68, 8, 625),
    "jetson-orin-nano-8gb-super": (16.7, 102, 8, 1020),
    "jetson-orin-nano-4gb": (5.1, 34, 4, 625),
    "jetson-agx-xavier-32gb": (11.3, 136.5, 8, 1377),
    "jetson-xavier-nx": (6.8, 59.7, 6, 1100),
    "jetson-tx2": (1.33, 59.7, 2, 1300),
    "jetson-nano": (0.472, 25.6, 1, 921.6),
    "jetson-agx-thor": (258, 273, 20, 1575),
    "rtx-4090": (330, 1008, 128, 2520),
    "l4": (121, 300, 58, 2040),
    "t4": (65, 320, 40, 1590),
    "h200": (989, 4800, 132, 1830),
    "v100": (125, 900, 80, 1530),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_target_has_the_published_figures(name: str) -> None:
    target = get_target(name)
    fp16, bandwidth, sms, clock = PUBLISHED[name]
    assert (target.peaks_tflops["fp16"], target.bandwidth_gb_s, target.sms, target.clock_mhz) == (
        fp16,
        bandwidth,
        sms,
        clock,
    )


def test_jetson_orin_says_what_it_stands_for() -> None:
    expected = "jetson-orin = Jetson AGX Orin 64GB, MAXN, JetPack 6.2, TensorRT 10.3"
    assert describe(get_target("jetson-orin")) == expected


def test_alias_keeps_the_name_asked_for_and_the_digest_of_its_device() -> None:
    alias, device = get_target("jetson-orin"), get_target("jetson-agx-orin-64gb")
    assert (alias.name, alias.device) == ("jetson-orin", "jetson-agx-orin-64gb")
    assert alias.digest == device.digest != get_target("jetson-agx-orin-32gb").digest


def test_every_alias_stands_for_a_target_and_hides_none() -> None:
    assert set(aliases().values()) <= set(target_names())
    assert not set(aliases()) & set(target_names())


def test_unknown_target_lists_near_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown target 'jetson-orin-nan'.*jetson-orin-nano"):
        get_target("jetson-orin-nan")


def test_every_figure_carries_a_status() -> None:
    for name in target_names():
        target = get_target(name)
        for precision in target.peaks_tflops:
            assert target.sources[f"peaks_tflops.{precision}"][0] in "SDM", name
        for field in ("bandwidth_gb_s", "sms", "clock_mhz", "l2_bytes", "tensorrt", "jetpack"):
            if getattr(target, field) is not None:
                assert target.sources[field][0] in "SDM", (name, field)


def test_dla_only_where_there_is_one() -> None:
    cores = {name: get_target(name).dla_cores for name in target_names()}
    assert cores["jetson-agx-orin-64gb"] == 2
    assert cores["jetson-orin-nx-8gb"] == 1
    assert cores["jetson-orin-nano-8gb"] == cores["jetson-agx-thor"] == cores["rtx-4090"] == 0


@pytest.mark.parametrize(
    ("name", "opset"), [("jetson-nano", 13), ("jetson-xavier-nx", 17), ("jetson-orin", 17), ("cpu", 17)]
)
def test_max_opset_follows_the_tensorrt_line(name: str, opset: int) -> None:
    assert get_target(name).max_opset == opset


def test_cpu_has_no_peaks_to_predict_from() -> None:
    assert get_target("cpu").kind == "cpu"
    assert not get_target("cpu").peaks_tflops


def test_importing_targets_loads_neither_torch_nor_onnx() -> None:
    program = (
        "import sys, edgekd.targets as t; t.get_target('jetson-orin'); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
