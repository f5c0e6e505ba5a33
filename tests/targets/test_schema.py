"""A user's own board: a good file is read, a bad one is refused with every problem at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgekd.core.errors import ConfigError
from edgekd.targets import load_target
from edgekd.targets.schema import max_opset_of, read_opset_of


def board(**changes: Any) -> dict[str, Any]:
    entry = {
        "name": "my-orin",
        "title": "My carrier board",
        "kind": "jetson",
        "generation": "orin",
        "sm": 87,
        "sms": 8,
        "clock_mhz": 918,
        "peaks_tflops": {"fp16": 15.0, "int8": 30.1},
        "bandwidth_gb_s": 102.4,
        "l2_mb": 2,
        "power_mode": "25W",
        "jetpack": "6.2",
        "tensorrt": "10.3",
        "status": {"default": "S deviceQuery"},
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def save(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "board.yaml"
    path.write_text(yaml.safe_dump({"schema_version": 1, "targets": list(entries)}))
    return path


def test_board_file_becomes_a_target(tmp_path: Path) -> None:
    target = load_target(save(tmp_path, board()))
    assert (target.name, target.device, target.sms, target.l2_bytes) == ("my-orin", "my-orin", 8, 2 * 2**20)
    assert target.max_opset == 17
    assert target.sources["peaks_tflops.int8"] == "S deviceQuery"


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    path = save(tmp_path, board(sms=0, bandwidth_gb_s=-1, colour="green", power_mode=None))
    with pytest.raises(ConfigError) as caught:
        load_target(path)
    for expected in (
        "targets.0.sms",
        "targets.0.bandwidth_gb_s",
        "targets.0.colour: unknown key",
        "targets.0.power_mode: missing",
    ):
        assert expected in str(caught.value)


def test_sparse_marketing_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"int8 100 is 3\.3 x what 8 SMs at 918 MHz can do .*sparse"):
        load_target(save(tmp_path, board(peaks_tflops={"fp16": 15.0, "int8": 100})))


def test_data_sheet_rounding_is_accepted(tmp_path: Path) -> None:
    possible = 2e-6 * 1024 * 8 * 918
    assert load_target(save(tmp_path, board(peaks_tflops={"fp16": 1.2 * possible}))).peaks_tflops["fp16"] > possible


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peaks_tflops": {"fp8": 10}}, "sm_87 has no such units"),
        ({"clock_mhz": None}, "need sm, sms and clock_mhz"),
        ({"status": {"sms": "S"}}, "no 'default'"),
        ({"tensorrt": "ten"}, "not a version"),
        ({"tensorrt": "8."}, "not a version"),
        ({"tensorrt": "7.1"}, "7.1 is older than 8.0"),
        ({"jetpack": "4.6.1"}, "jetpack 4.6.1 does not run on sm_87: it has sm_53, sm_62, sm_72"),
        ({"name": "Not A Name"}, "targets.0.name"),
        ({"name": "jetson-mine", "jetpack": None}, "needs 'jetpack'"),
    ],
)
def test_impossible_figures_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_target(save(tmp_path, board(**changes)))


def test_built_in_name_is_refused(tmp_path: Path) -> None:
    for taken in ("rtx-4090", "jetson-orin"):
        with pytest.raises(ConfigError, match="built-in target"):
            load_target(save(tmp_path, board(name=taken)))


def test_two_boards_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one target, this one holds 2"):
        load_target(save(tmp_path, board(), board(name="other")))


@pytest.mark.parametrize(
    ("line", "opset"), [("8.0", 13), ("8.2", 13), ("8.4.1", 13), ("8.5", 17), ("10.3", 17), ("10.16.2", 17), (None, 17)]
)
def test_opset_of_a_tensorrt_line(line: str | None, opset: int) -> None:
    assert max_opset_of(line) == opset


@pytest.mark.parametrize(("line", "opset"), [("8.2", 13), ("8.6", 17), ("10.3", 25), ("11.4", 25), (None, 25)])
def test_a_parser_is_given_newer_opsets_than_are_exported_for_it(line, opset):
    assert read_opset_of(line) == opset >= max_opset_of(line)
