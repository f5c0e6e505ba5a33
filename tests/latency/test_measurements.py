"""A user's own measurements: CSV, kept `edgekd profile --json` documents, run folders."""

import dataclasses
import json
from pathlib import Path

import pytest
from onnx import helper

from edgekd.core.artifacts import Engine, FileRef, LatencyReport, OnnxModel, to_json
from edgekd.core.errors import DataError
from edgekd.latency.measurements import Measurement, read_measurements
from edgekd.targets import get_target

ORIN = get_target("jetson-orin")
REPORT = LatencyReport("measured", "jetson-orin", "fp16", "tensorrt", 2.0, 3.0, 1.9, 2.1, {"batch": 4})


@pytest.fixture
def net(save_onnx, weights) -> Path:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    return save_onnx([node], x=[1, 3, 8, 8], constants={"w": weights(4, 3, 1, 1)})


def profiled(path: Path, model: str, report: LatencyReport) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema_version": 1, "model": model, "latency": to_json(report), "verdict": None}))


def test_csv_rows_are_read_with_files_beside_it(net: Path, tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text("model,p50_ms,precision,batch\nnet.onnx,1.5,,\nnet.onnx,2.5,int8,8\n")
    assert read_measurements(table, ORIN) == (
        Measurement(net, 1.5, "fp16", 1, f"{table}, line 2"),
        Measurement(net, 2.5, "int8", 8, f"{table}, line 3"),
    )


def test_csv_of_a_spreadsheet_may_begin_with_a_byte_order_mark(net: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("\ufeffmodel,p50_ms\nnet.onnx,1.5\n")
    assert [item.p50_ms for item in read_measurements(tmp_path / "m.csv", ORIN)] == [1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows with the columns model, p50_ms"),
        ("model,ms\nnet.onnx,1\n", "no rows with the columns model, p50_ms"),
        ("model,p50_ms\nnet.onnx,fast\n", "line 2: p50_ms 'fast'"),
        ("model,p50_ms\nnet.onnx,0\n", "line 2: p50_ms '0'.* above zero"),
        ("model,p50_ms\nnet.onnx,nan\n", "line 2: p50_ms 'nan'.* above zero"),
        ("model,p50_ms,precision\nnet.onnx,1,fp4\n", "line 2: precision 'fp4' is none of fp32, fp16, int8, bf16, fp8"),
        ("model,p50_ms,batch\nnet.onnx,1,0\n", "line 2: .*batch '0' must be above zero"),
        ("model,p50_ms\nother.onnx,1\n", r"ONNX files are missing: .*other\.onnx"),
    ],
)
def test_csv_that_is_wrong_names_the_line(net: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_measurements(tmp_path / "m.csv", ORIN)


def test_kept_profiles_are_found_in_a_folder(net: Path, tmp_path: Path) -> None:
    profiled(tmp_path / "kept" / "deep" / "a.json", str(net), REPORT)
    (found,) = read_measurements(tmp_path / "kept", ORIN)
    assert (found.model, found.p50_ms, found.precision, found.batch) == (net, 2.0, "fp16", 4)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "predicted"}, {"target": "jetson-orin-nano"}, {"target": "jetson-orin@30W"}, {"target": "cpu"}],
)
def test_predictions_and_other_targets_are_left_out(net: Path, tmp_path: Path, changes: dict) -> None:
    profiled(tmp_path / "kept" / "a.json", str(net), dataclasses.replace(REPORT, **changes))
    profiled(tmp_path / "kept" / "b.json", str(net), REPORT)
    (found,) = read_measurements(tmp_path / "kept", ORIN)
    assert found.origin.endswith("b.json")


def test_any_alias_of_the_board_counts(net: Path, tmp_path: Path) -> None:
    profiled(tmp_path / "a.json", str(net), dataclasses.replace(REPORT, target="jetson-agx-orin"))
    profiled(tmp_path / "b.json", str(net), dataclasses.replace(REPORT, target="a-board-nobody-knows"))
    assert len(read_measurements(tmp_path, ORIN)) == 1


def test_a_power_mode_takes_its_own_measurements(net: Path, tmp_path: Path) -> None:
    profiled(tmp_path / "a.json", str(net), dataclasses.replace(REPORT, target="jetson-orin@30W"))
    assert len(read_measurements(tmp_path, get_target("jetson-orin@30W"))) == 1
    with pytest.raises(DataError, match="nothing measured on jetson-orin@15W"):
        read_measurements(tmp_path, get_target("jetson-orin@15W"))


def test_a_run_folder_leads_from_a_latency_to_its_network(net: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    (run / "onnx").mkdir(parents=True)
    net.rename(run / "onnx" / "student.fp16.onnx")
    file = dataclasses.replace(FileRef.of(run / "onnx" / "student.fp16.onnx"), path="onnx/student.fp16.onnx")
    model = OnnxModel(file, "fp16", "any", 17, "x", (3, 8, 8), "y", 1)
    engine = Engine("tensorrt", "jetson-orin", "fp16", file, {}, (model.digest,))
    timed = dataclasses.replace(REPORT, parents=(engine.digest,))
    guess = dataclasses.replace(REPORT, kind="predicted", p50_ms=9.0, parents=(engine.digest,))
    stages = {
        "export": {"result": {"models": {"fp16": to_json(model)}}},
        "latency": {"result": {"reports": [to_json(timed), to_json(guess)]}},
    }
    (run / "run.json").write_text(json.dumps({"schema_version": 1, "created": "", "stages": stages}))
    (run / "engines" / "e").mkdir(parents=True)
    (run / "engines" / "e" / "build.json").write_text(json.dumps(to_json(engine)))
    (found,) = read_measurements(tmp_path / "runs", ORIN)
    assert (found.model, found.p50_ms) == (run / "onnx" / "student.fp16.onnx", 2.0)


def test_nothing_measured_says_what_to_keep(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="nothing measured on jetson-orin is there; keep documents of"):
        read_measurements(tmp_path, ORIN)
    with pytest.raises(DataError, match="no such file or folder"):
        read_measurements(tmp_path / "absent", ORIN)
