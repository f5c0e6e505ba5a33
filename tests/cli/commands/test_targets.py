"""Targets as text and as JSON."""

import asyncio
import importlib.util
import json
import re
from pathlib import Path

import pytest

from edgekd.targets import aliases, get_target, target_names


def test_list_names_every_target_and_alias(edgekd):
    lines = edgekd("targets", "list").stdout.splitlines()
    first_words = {line.split()[0] for line in lines if line}
    assert {*target_names(), *aliases()} <= first_words


def test_list_as_json_agrees_with_the_library(edgekd):
    document = json.loads(edgekd("targets", "list", "--json").stdout)
    assert [target["name"] for target in document["targets"]] == list(target_names())
    assert document["aliases"] == aliases()


def test_show_says_what_an_alias_stands_for_with_sources(edgekd):
    text = edgekd("targets", "show", "jetson-orin").stdout
    assert text.startswith("jetson-orin = Jetson AGX Orin 64GB, MAXN, JetPack 6.2, TensorRT 10.3\n")
    bandwidth = next(line for line in text.splitlines() if line.startswith("bandwidth_gb_s"))
    assert bandwidth.split()[1:3] == ["204.8", "S"]
    peaks = next(line for line in text.splitlines() if line.startswith("peaks_tflops"))
    assert peaks.endswith(f"int8 {get_target('jetson-orin').sources['peaks_tflops.int8']}")


def test_show_as_json_holds_every_figure_and_the_digest(edgekd):
    shown = json.loads(edgekd("targets", "show", "rtx-4090", "--json").stdout)["target"]
    target = get_target("rtx-4090")
    assert shown["digest"] == target.digest
    assert shown["peaks_tflops"] == dict(target.peaks_tflops)
    assert shown["sm"] == 89


def test_unknown_target_lists_near_ones_and_exits_2(edgekd):
    result = edgekd("targets", "show", "rtx4090")
    assert result.exit_code == 2
    assert "did you mean rtx-4090" in result.stderr


def beside(name):
    """Import a test module of the library, for the texts and fakes it keeps."""
    path = Path(__file__).parents[2] / "targets" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"targets_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "own"))
    return tmp_path / "own" / "targets"


CONF = """\
< POWER_MODEL ID=0 NAME=MAXN >
GPU MAX_FREQ -1
EMC MAX_FREQ 0
< POWER_MODEL ID=3 NAME=25W >
GPU MAX_FREQ 408000000
EMC MAX_FREQ 1600000000
"""


@pytest.fixture
def nvpmodel(tmp_path):
    (tmp_path / "q.txt").write_text("NV Power Mode: 25W\n3\n")
    (tmp_path / "nvpmodel.conf").write_text(CONF)
    return ("--nvpmodel", tmp_path / "q.txt", "--nvpmodel-conf", tmp_path / "nvpmodel.conf")


def test_power_mode_by_name_scales_what_is_shown(edgekd):
    shown = json.loads(edgekd("targets", "show", "jetson-orin", "--power-mode", "30w", "--json").stdout)["target"]
    assert shown["clock_mhz"] == 624.75
    assert shown["peaks_tflops"] == dict(get_target("jetson-orin@30W").peaks_tflops)
    text = edgekd("targets", "show", "jetson-orin@30W").stdout
    assert text.startswith("jetson-orin@30W = Jetson AGX Orin 64GB, 30W, JetPack 6.2")


def test_show_lists_modes_and_software_lines(edgekd):
    lines = [" ".join(line.split()) for line in edgekd("targets", "show", "jetson-xavier-nx").stdout.splitlines()]
    assert "5.1.2 35.4.1 11.4 8.5.2 3.8 S" in lines
    assert not any(line.startswith("6.2") for line in lines)
    assert "20W - - 6 - M" in lines


def test_compare_gives_the_ratio_of_each_figure(edgekd):
    words = ("targets", "compare", "jetson-orin-nano-8gb", "jetson-orin-nano-8gb-super")
    facts = json.loads(edgekd(*words, "--json").stdout)["facts"]
    assert facts["bandwidth_gb_s"] == {"first": 68, "second": 102, "ratio": 1.5}
    assert facts["clock_mhz"]["ratio"] == 1020 / 625
    assert facts["power_mode"] == {"first": "15W", "second": "MAXN_SUPER", "ratio": None}
    assert "clock_mhz" in edgekd(*words).stdout
    one_sided = json.loads(edgekd("targets", "compare", "t4", "l4", "--json").stdout)["facts"]
    assert one_sided["peaks_tflops.fp8"] == {"first": None, "second": 242, "ratio": None}


def test_add_from_nvpmodel_makes_a_board_that_every_command_knows(edgekd, own_folder, nvpmodel):
    result = edgekd("targets", "add", "my-nx", "--like", "jetson-orin-nx-16gb", *nvpmodel)
    assert result.exit_code == 0, result.output
    assert (own_folder / "my-nx.yaml").is_file()
    board = get_target("my-nx")
    assert (board.clock_mhz, board.power_mode, board.bandwidth_gb_s) == (408, "25W", 51.2)
    assert board.peaks_tflops["fp16"] == pytest.approx(15.0 * 408 / 918, rel=1e-3)
    listed = json.loads(edgekd("targets", "list", "--json").stdout)
    assert listed["own"] == ["my-nx"]
    assert "my-nx" in edgekd("targets", "list").stdout
    assert "S nvpmodel.conf of the board" in edgekd("targets", "show", "my-nx").stdout


def test_add_from_device_query(edgekd, own_folder, tmp_path):
    device_query = beside("test_device_query").device_query
    (tmp_path / "dq.txt").write_text(
        device_query("NVIDIA T4", "7.5", "40", 1590, 15843721216, "No", 5001, 256, 4194304)
    )
    result = edgekd("targets", "add", "my-t4", "--device-query", tmp_path / "dq.txt", "--json")
    entry = json.loads(result.stdout)["target"]
    assert entry["peaks_tflops"]["int8"] == pytest.approx(2e-6 * 1024 * 40 * 1590, rel=1e-3)
    assert (entry["generation"], entry["kind"]) == ("turing", "gpu")


def test_add_from_flags_alone(edgekd, own_folder):
    flags = ("--sm", 87, "--sms", 8, "--clock-mhz", 900, "--bandwidth-gb-s", 102.4, "--jetpack", "6.2")
    assert edgekd("targets", "add", "plain", *flags).exit_code == 0
    assert get_target("plain").peaks_tflops["int8"] == pytest.approx(2e-6 * 2048 * 8 * 900, rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--bandwidth-gb-s", 0), "bandwidth_gb_s"),
        (("--peak", "int8=60.2"), "sparse or DLA figures do not belong here"),
        (("--peak", "int8"), "write it as fp16=15.0"),
        (("--power-mode", "9W"), "not in nvpmodel.conf, which has MAXN, 25W"),
        (("--device", "a b"), "user@host"),
    ],
)
def test_add_refuses_what_cannot_be_and_writes_nothing(edgekd, own_folder, nvpmodel, flags, message):
    result = edgekd("targets", "add", "my-nx", "--like", "jetson-orin-nx-16gb", *nvpmodel, *flags)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not own_folder.exists()


def test_add_keeps_what_is_there_and_takes_no_built_in_name(edgekd, own_folder, tmp_path):
    words = ("targets", "add", "mine", "--like", "jetson-orin-nx-16gb", "--file", tmp_path / "mine.yaml")
    assert edgekd(*words, "--dry-run").exit_code == 0
    assert not (tmp_path / "mine.yaml").exists()
    assert edgekd(*words).exit_code == 0
    assert edgekd(*words).exit_code == 2
    assert edgekd(*words, "--force").exit_code == 0
    assert get_target(str(tmp_path / "mine.yaml")).name == "mine"
    taken = edgekd("targets", "add", "jetson-orin", "--like", "jetson-orin-nx-16gb")
    assert (taken.exit_code, "built-in" in taken.stderr) == (2, True)


def test_board_file_under_another_name_is_refused(edgekd, own_folder):
    assert edgekd("targets", "add", "mine", "--like", "jetson-orin-nx-16gb").exit_code == 0
    (own_folder / "mine.yaml").rename(own_folder / "yours.yaml")
    result = edgekd("targets", "show", "yours")
    assert (result.exit_code, "holds the board 'mine'" in result.stderr) == (2, True)


def test_add_asks_a_board_over_ssh(edgekd, own_folder, monkeypatch):
    from edgekd.targets import ssh_probe
    from edgekd.targets.ssh_connection import Address

    fake = beside("test_ssh_probe")

    def probe(address):
        assert address == Address("bench", "nvidia")
        return asyncio.run(ssh_probe.ask(fake.FakeShell(fake.ORIN_NX), address.host))

    monkeypatch.setattr(ssh_probe, "probe", probe)
    result = edgekd("targets", "add", "my-nx", "--device", "nvidia@bench")
    assert result.exit_code == 0, result.output
    assert "taken from jetson-orin-nx-16gb" in result.stdout
    board = get_target("my-nx")
    assert (board.sms, board.clock_mhz, board.power_mode, board.jetpack) == (4, 612, "15W", "6.2")
    assert {mode.name: mode.sms for mode in board.power_modes} == {"MAXN": 8, "15W": 4}
    assert board.sources["sms"] == "S bench"


def test_show_says_what_the_numbers_of_sources_stand_for(edgekd):
    shown = edgekd("targets", "show", "jetson-orin-nx-16gb")
    assert "S [1]" in shown.stdout
    assert "\n[1] Ultralytics Jetson guide" in shown.stdout
    document = json.loads(edgekd("targets", "show", "jetson-orin-nx-16gb", "--json").stdout)
    assert document["sources"].keys() == set(re.findall(r"^\[(\d+)\] ", shown.stdout, flags=re.M))
