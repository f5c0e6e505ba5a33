"""A board of one's own from what is known of it: who wins, what is computed, what is refused."""

import dataclasses

import pytest

from edgekd.core.errors import ConfigError, DataError
from edgekd.targets import get_target, load_target, target_names
from edgekd.targets.board import BoardKnowledge, board_document, board_from, document_of, resembling, save_board
from edgekd.targets.device_query import GpuFacts
from edgekd.targets.nvpmodel import ConfMode

NX = get_target("jetson-orin-nx-16gb")
AGX = get_target("jetson-agx-orin-64gb")
NX_GPU = GpuFacts("Orin", 87, 8, 918, 15.0, 2, is_integrated=True, bandwidth_gb_s=None)
AGX_MODES = (
    ConfMode("MAXN", 0, None, None, 0),
    ConfMode("15W", 1, 420.75, 2133, 6),
    ConfMode("30W", 2, 624.75, None, 4),
)


def board(**known):
    return board_from(board_document("mine", BoardKnowledge(**known)))


def test_stated_wins_over_seen_and_seen_over_like() -> None:
    target = board(stated={"clock_mhz": 800.0}, gpu=dataclasses.replace(NX_GPU, sms=4, l2_mb=1), like=NX)
    assert (target.clock_mhz, target.sms, target.l2_bytes, target.bandwidth_gb_s) == (800, 4, 2**20, 102.4)
    assert target.sources["clock_mhz"] == "S stated by the user"
    assert target.sources["sms"] == "S the board"
    assert target.sources["bandwidth_gb_s"] == "S [1] of jetson-orin-nx-16gb"


def test_peaks_are_computed_from_sms_and_clock() -> None:
    target = board(stated={"clock_mhz": 459.0}, gpu=dataclasses.replace(NX_GPU, sms=4), like=NX)
    for precision, peak in NX.peaks_tflops.items():
        assert target.peaks_tflops[precision] == pytest.approx(peak / 4, rel=1e-3)
        assert target.sources[f"peaks_tflops.{precision}"] == "D"


def test_peaks_of_an_unknown_card_come_from_its_architecture() -> None:
    gpu = GpuFacts("NVIDIA Something", 89, 20, 2000, 7.7, 24, is_integrated=False, bandwidth_gb_s=256)
    target = board(gpu=gpu)
    assert target.peaks_tflops["fp16"] == pytest.approx(2e-6 * 512 * 20 * 2000)
    assert (target.kind, target.generation, target.bandwidth_gb_s, target.memory_gb) == ("gpu", "ada", 256, 7.7)


def test_all_figures_belong_to_the_mode_the_board_is_in() -> None:
    target = board(mode="15W", modes=AGX_MODES, like=AGX)
    assert (target.power_mode, target.clock_mhz, target.sms, target.emc_mhz) == ("15W", 420.75, 4, 2133)
    assert target.bandwidth_gb_s == pytest.approx(136.5, abs=0.05)
    assert target.peaks_tflops["int8"] == pytest.approx(85.2 * 4 * 420.75 / (16 * 1300.5), rel=1e-3)


def test_modes_of_the_board_carry_their_own_numbers_clocks_and_sms() -> None:
    target = board(mode="15W", modes=AGX_MODES, like=AGX)
    rows = [(mode.name, mode.id, mode.clock_mhz, mode.sms, mode.emc_mhz) for mode in target.power_modes]
    assert rows == [("MAXN", 0, 1300.5, 16, 3200), ("15W", 1, 420.75, 4, 2133), ("30W", 2, 624.75, 8, 3200)]
    assert {mode.status for mode in target.power_modes} == {"S nvpmodel.conf of the board"}


def test_unlimited_mode_takes_the_clock_that_cuda_or_the_data_sheet_knows() -> None:
    gpu = GpuFacts("Orin", 87, 16, 1300, 61.4, 4, is_integrated=True, bandwidth_gb_s=None)
    assert board(mode="MAXN", modes=AGX_MODES, gpu=gpu, like=AGX).clock_mhz == 1300
    assert board(mode="MAXN", modes=AGX_MODES, like=AGX).clock_mhz == 1300.5


def test_mode_of_unknown_clock_is_not_given_the_top_clock() -> None:
    with pytest.raises(ConfigError, match="clock_mhz, bandwidth_gb_s not known; state it"):
        board(mode="30W", like=get_target("jetson-agx-orin-32gb"))


def test_mode_that_the_conf_does_not_have_is_refused() -> None:
    with pytest.raises(DataError, match="'40W' is not in nvpmodel.conf, which has MAXN, 15W, 30W"):
        board(mode="40W", modes=AGX_MODES, like=AGX)


def test_l4t_decides_the_software() -> None:
    target = board(gpu=NX_GPU, like=NX, l4t="35.4.1")
    assert (target.jetpack, target.cuda, target.tensorrt, target.python) == ("5.1.2", "11.4", "8.5", "3.8")
    assert board(gpu=NX_GPU, like=NX, l4t="99.9").jetpack == NX.jetpack


def test_the_jetpack_that_is_stated_decides_the_software() -> None:
    figures = {"sm": 72, "sms": 6, "clock_mhz": 1100.0, "bandwidth_gb_s": 59.7}
    target = board(stated={**figures, "jetpack": "4.6.1"})
    assert (target.cuda, target.tensorrt, target.python, target.max_opset) == ("10.2", "8.2", "3.6", 13)
    assert target.sources["tensorrt"] == "S [3][4] of JetPack 4.6.1"
    like = board(stated={"jetpack": "5.1.2"}, like=NX)
    assert (like.jetpack, like.tensorrt, like.python) == ("5.1.2", "8.5", "3.8")
    assert board(stated={"jetpack": "5.1.2", "tensorrt": "8.6"}, like=NX).tensorrt == "8.6"
    assert board(stated={"jetpack": "9.9"}, like=NX).tensorrt == NX.tensorrt


def test_nothing_known_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"sm, sms, clock_mhz, bandwidth_gb_s not known.*--like"):
        board(stated={"memory_gb": 8.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sm": 72}, "the GPU is sm_72, jetson-orin-nx-16gb is sm_87"),
        ({"sms": 16}, "has 16 SMs, jetson-orin-nx-16gb has 8"),
        ({"memory_gb": 30.0}, "30.0 GiB of memory, jetson-orin-nx-16gb has 16 GB"),
    ],
)
def test_a_board_that_is_another_one_than_named_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        board(gpu=dataclasses.replace(NX_GPU, **changes), like=NX)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"bandwidth_gb_s": 0.0}, "bandwidth_gb_s"),
        ({"clock_mhz": 1e6}, "clock_mhz"),
        ({"sms": 0}, "sms"),
        ({"peaks_tflops": {"int8": 60.2}}, r"int8 60\.2 is 2\.0 x what 8 SMs at 918 MHz can do .*sparse or DLA"),
        ({"peaks_tflops": {"fp8": 30.0}}, "sm_87 has no such units"),
        ({"sm": 88, "peaks_tflops": {"fp16": 1.0}}, "no such architecture is known"),
    ],
)
def test_impossible_figures_are_refused(stated: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        board(stated=stated, like=NX)


@pytest.mark.parametrize(
    ("gpu", "clock", "name"),
    [
        (NX_GPU, 918, "jetson-orin-nx-16gb"),
        (NX_GPU, 1173, "jetson-orin-nx-16gb-super"),
        (dataclasses.replace(NX_GPU, sms=4), 918, "jetson-orin-nx-16gb"),
        (dataclasses.replace(NX_GPU, memory_gb=7.16), 625, "jetson-orin-nano-8gb"),
        (dataclasses.replace(NX_GPU, memory_gb=61.4, sms=16), 1300, "jetson-agx-orin-64gb"),
        (dataclasses.replace(NX_GPU, memory_gb=30.0, sms=16), 1300, None),
        (dataclasses.replace(NX_GPU, sm=72, memory_gb=31.0), 1377, "jetson-agx-xavier-32gb"),
        (dataclasses.replace(NX_GPU, is_integrated=False), 918, None),
    ],
)
def test_a_jetson_is_known_by_what_it_has(gpu: GpuFacts, clock: float, name: str | None) -> None:
    found = resembling(gpu, [get_target(target) for target in target_names()], clock)
    assert (found and found.name) == name


@pytest.mark.parametrize("name", ["jetson-agx-orin-64gb", "jetson-orin@15W", "rtx-4090", "jetson-nano"])
def test_a_target_written_down_is_the_same_target(tmp_path, name: str) -> None:
    target = get_target(name)
    save_board(tmp_path / "b.yaml", document_of(target, "b"))
    again = load_target(tmp_path / "b.yaml")
    skipped = {"name": "", "device": "", "sources": {}}
    assert dataclasses.replace(again, **skipped) == dataclasses.replace(target, **skipped)
    assert {key: value for key, value in again.sources.items() if key in target.sources} == target.sources
