"""`edgekd latency`: the contract of its JSON, and what it refuses."""

import csv
import gzip
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.latency import graph_from_onnx, graphs_from_csv, predict, with_batch
from edgekd.targets import get_target

KEYS = ["model", "size", "target", "precision", "p50_ms", "low_ms", "high_ms", "bound"]
COLUMNS = (
    "model,resolution,built_from,idx,kind,macs,in_elems,out_elems,weight_elems,gemm_m,gemm_n,gemm_k,groups,kernel_area,"
    "fused_pointwise,fused_residual"
)
TABLE = f"""{COLUMNS}
a,32,hand,0,input,0,3072,3072,0,,,,,,0,0
a,32,hand,1,conv_kxk,442368,3072,16384,432,1024,16,27,1,9,1,0
a,64,hand,0,input,0,12288,12288,0,,,,,,0,0
a,64,hand,1,conv_kxk,1769472,12288,65536,432,4096,16,27,1,9,1,0
b,32,hand,0,conv_1x1,49152,3072,16384,48,1024,16,3,1,1,0,0
"""


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "layers.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    return path


def network(path: Path, *, shape=("N", 3, 32, 32), width=16, op="Conv", domain="", dtype=np.float32) -> Path:
    weights = numpy_helper.from_array(np.ones((width, 3, 3, 3), dtype), "w")
    nodes = [helper.make_node(op, ["x", "w"], ["c"], domain=domain), helper.make_node("Relu", ["c"], ["y"])]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    imports = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values, [out], [weights]), opset_imports=imports, ir_version=8
    )
    onnx.save(model, str(path))
    return path


def test_every_graph_of_a_table_is_a_row_of_a_plain_list(edgekd, table):
    result = edgekd("latency", "predict", "--layers", table, "--target", "jetson-orin", "--json")
    rows = json.loads(result.stdout)
    assert [list(row) for row in rows] == [KEYS] * 3
    assert [(row["model"], row["size"]) for row in rows] == [("a", 32), ("a", 64), ("b", 32)]
    graphs = graphs_from_csv(table)
    for row in rows:
        report = predict(graphs[(row["model"], row["size"])], get_target("jetson-orin"), "fp16")
        assert (row["p50_ms"], row["low_ms"], row["high_ms"]) == (report.p50_ms, report.low_ms, report.high_ms)
        assert (row["target"], row["precision"]) == ("jetson-orin", "fp16")
        assert row["bound"] == report.conditions["bound"]


def test_a_table_is_narrowed_to_a_model_a_size_and_scaled_to_a_batch(edgekd, table):
    words = ("latency", "predict", "--layers", table, "--target", "jetson-orin", "--precision", "int8", "--json")
    assert [row["size"] for row in json.loads(edgekd(*words, "--model", "a").stdout)] == [32, 64]
    (row,) = json.loads(edgekd(*words, "--model", "a", "--size", 64, "--batch", 8).stdout)
    graph = with_batch(graphs_from_csv(table)[("a", 64)], 8)
    assert row["p50_ms"] == predict(graph, get_target("jetson-orin"), "int8").p50_ms


def test_a_table_without_that_model_or_size_lists_what_it_has(edgekd, table):
    words = ("latency", "predict", "--layers", table, "--target", "jetson-orin")
    assert "has no model c; it has a, b" in edgekd(*words, "--model", "c").stderr
    result = edgekd(*words, "--model", "a", "--size", 99)
    assert (result.exit_code, "it has a of size 32, 64" in result.stderr) == (2, True)


def test_an_onnx_file_is_the_same_row(edgekd, tmp_path):
    path = network(tmp_path / "net.onnx")
    (row,) = json.loads(edgekd("latency", "predict", path, "--target", "jetson-orin", "--json").stdout)
    report = predict(graph_from_onnx(path), get_target("jetson-orin"), "fp16")
    assert list(row) == KEYS
    assert (row["model"], row["size"], row["p50_ms"]) == ("net", 32, report.p50_ms)


def test_a_quantised_file_is_predicted_at_int8_unless_told_otherwise(edgekd, tmp_path):
    path = network(tmp_path / "net.onnx")
    model = onnx.load(str(path))
    scale = [
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
    ]
    model.graph.initializer.extend(scale)
    model.graph.node[0].input[0] = "dq"
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
    onnx.save(model, str(path))
    words = ("latency", "predict", path, "--target", "jetson-orin", "--json")
    assert json.loads(edgekd(*words).stdout)[0]["precision"] == "int8"
    assert json.loads(edgekd(*words, "--precision", "fp16").stdout)[0]["precision"] == "fp16"


def test_text_says_what_it_stands_for_and_that_nothing_was_measured(edgekd, table):
    text = edgekd("latency", "predict", "--layers", table, "--target", "jetson-orin").stdout
    assert text.startswith("jetson-orin = Jetson AGX Orin 64GB, MAXN, JetPack 6.2, TensorRT 10.3\n")
    assert "fp16, predicted, not measured" in text
    assert "launch floor ms" in text


def test_text_says_the_batch_that_a_file_fixes(edgekd, tmp_path):
    said = [
        edgekd("latency", "predict", network(tmp_path / f"{batch}.onnx", shape=(batch, 3, 32, 32)), "--target", "t4")
        for batch in (4, 1)
    ]
    assert "fp16, batch 4, predicted, not measured" in said[0].stdout
    assert "fp16, predicted, not measured" in said[1].stdout


def test_power_mode_slows_it_down(edgekd, table):
    words = ("latency", "predict", "--layers", table, "--model", "a", "--size", 64, "--json", "--target")
    (top,), (low,) = (
        json.loads(edgekd(*words, *target).stdout)
        for target in (("jetson-orin",), ("jetson-orin", "--power-mode", "15W"))
    )
    assert low["target"] == "jetson-orin@15W"
    assert low["p50_ms"] > 1.2 * top["p50_ms"]
    assert json.loads(edgekd(*words, "jetson-orin@15W").stdout) == [low]


def test_dims_are_given_by_name(edgekd, tmp_path):
    path = network(tmp_path / "net.onnx", shape=("N", 3, "height", None))
    words = ("latency", "predict", path, "--target", "jetson-orin", "--json")
    refused = edgekd(*words)
    assert (refused.exit_code, "--dim height=224" in refused.stderr) == (1, True)
    (row,) = json.loads(edgekd(*words, "--dim", "height=32", "--dim", "x:3=32").stdout)
    (fixed,) = json.loads(
        edgekd("latency", "predict", network(tmp_path / "net.onnx"), "--target", "jetson-orin", "--json").stdout
    )
    assert row == fixed


def test_show_adds_up_to_the_prediction(edgekd, tmp_path):
    path = network(tmp_path / "net.onnx")
    shown = json.loads(edgekd("latency", "show", path, "--target", "jetson-orin", "--json").stdout)
    (row,) = json.loads(edgekd("latency", "predict", path, "--target", "jetson-orin", "--json").stdout)
    layers = shown["layers"]
    total = math.fsum(layer["time_ms"] for layer in layers) + shown["conditions"]["constant_ms"]
    assert total == pytest.approx(row["p50_ms"])
    assert [layer["kind"] for layer in layers] == ["input", "conv_kxk"]
    assert layers[1]["share"] == pytest.approx(layers[1]["time_ms"] / row["p50_ms"])
    assert {layer["bound"] for layer in layers} <= {"compute", "traffic", "floor"}
    text = edgekd("latency", "show", path, "--target", "jetson-orin", "--top", 1).stdout
    slowest = max(layers, key=lambda layer: layer["time_ms"])
    assert slowest["name"] in text
    assert "predicted, not measured" in text
    assert min(layers, key=lambda layer: layer["time_ms"])["kind"] not in text


def test_show_takes_one_network(edgekd, table):
    result = edgekd("latency", "show", "--layers", table, "--target", "jetson-orin")
    assert (result.exit_code, "the table has 3" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("target", "precision", "message", "code"),
    [
        ("jetson-nano", "int8", "'jetson-nano' has no fast int8: it runs fp16, fp32", 4),
        ("gtx-1080-ti", "fp16", "has no fast fp16", 4),
        ("cpu", "fp16", "never predicted", 4),
        ("drive-thor", "fp16", "drive-thor", 4),
        ("jetson-agx-orin-32gb@30W", "fp16", "GPU clock of jetson-agx-orin-32gb in power mode 30W is not known", 4),
        ("jetson-oring", "fp16", "did you mean jetson-orin", 2),
        ("absent.yaml", "fp16", "no such file", 2),
    ],
)
def test_targets_that_cannot_be_predicted_say_why(edgekd, table, target, precision, message, code):
    result = edgekd("latency", "predict", "--layers", table, "--target", target, "--precision", precision)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


def control_flow(path: Path) -> Path:
    flag = helper.make_node("Constant", [], ["flag"], value=numpy_helper.from_array(np.array(True)))
    branch = [
        helper.make_graph(
            [helper.make_node(op, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, 1, None)]
        )
        for op, name in (("Relu", "r"), ("Neg", "n"))
    ]
    top = helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0)
    test = helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL)
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])]
    graph = helper.make_graph([flag, top, test, node], "g", values, [helper.make_tensor_value_info("y", 1, None)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def no_model(path: Path) -> Path:
    path.write_bytes(b"\x00hello")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: network(path, shape=("N", 3, "h", "w")), "dimension 2 of input 'x' (h), dimension 3"),
        (lambda path: network(path, op="Warp", domain="my.ops"), "operators outside the ONNX standard: my.ops.Warp"),
        (lambda path: network(path, shape=(1, 3, 32, 0)), "dimension 3 of input 'x'"),
        (control_flow, "control flow has no fixed cost"),
        (no_model, "not a readable ONNX model"),
        (lambda path: network(path, shape=("N", 3, 99_999_999_999, 99_999_999)), "no device runs it"),
    ],
    ids=["open dims", "custom op", "zero size", "control flow", "no model", "too large"],
)
def test_networks_that_cannot_be_analysed_say_why(edgekd, tmp_path, make, message):
    result = edgekd("latency", "predict", make(tmp_path / "net.onnx"), "--target", "jetson-orin", "--json")
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert message in json.loads(result.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,32,hand,2,pointwise,0,16,0,0,,,,,,0,0", "line 7: a layer cannot have out_elems = 0"),
        ("a,32,hand,2,warp,0,16,16,0,,,,,,0,0", "line 7: unknown layer kind 'warp'"),
        ("a,32,hand,2,pool,-1,16,16,0,,,,,,0,0", "line 7: a layer cannot have macs < 0"),
        ("a,x,hand,2,pool,0,16,16,0,,,,,,0,0", "line 7"),
    ],
)
def test_a_table_with_an_impossible_layer_names_the_line(edgekd, tmp_path, row, message):
    (tmp_path / "t.csv").write_text(f"{TABLE}{row}\n")
    result = edgekd("latency", "predict", "--layers", tmp_path / "t.csv", "--target", "jetson-orin")
    assert (result.exit_code, message in result.stderr) == (1, True), result.stderr


@pytest.mark.parametrize("words", [(), ("--model", "a"), ("--dim", "h=3")])
def test_a_source_is_named_once(edgekd, table, tmp_path, words):
    both = edgekd("latency", "predict", network(tmp_path / "n.onnx"), "--layers", table, "--target", "t4", *words)
    none = edgekd("latency", "predict", "--target", "t4", *words)
    for result in (both, none):
        assert (result.exit_code, "name an ONNX file, or a table" in result.stderr) == (2, True)


def test_options_of_the_other_source_are_refused(edgekd, table, tmp_path):
    path = network(tmp_path / "n.onnx")
    assert "they need --layers" in edgekd("latency", "predict", path, "--target", "t4", "--size", 32).stderr
    assert "none open" in edgekd("latency", "predict", "--layers", table, "--target", "t4", "--dim", "h=3").stderr


@pytest.fixture
def measured(tmp_path, monkeypatch) -> Path:
    """Keep six measurements of a board that is 1.4 times slower than predicted."""
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "own"))
    rows = [("model", "p50_ms")]
    for index, width in enumerate((8, 16, 32, 64, 128, 256)):
        path = network(tmp_path / f"n{index}.onnx", width=width, shape=("N", 3, 64 + 32 * index, 64))
        rows.append((path.name, str(1.4 * predict(graph_from_onnx(path), get_target("jetson-orin"), "fp16").p50_ms)))
    with (tmp_path / "measured.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return tmp_path / "measured.csv"


def test_fit_makes_a_board_that_predict_uses_by_name_file_or_parameters(edgekd, measured, tmp_path):
    result = edgekd("latency", "fit", "--from", measured, "--target", "jetson-orin", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["before_mape"] == pytest.approx(1 - 1 / 1.4, rel=1e-3)
    assert document["held_out_mape"] < 0.1
    assert len(document["networks"]) == 6
    path = tmp_path / "own" / "targets" / "jetson-agx-orin-64gb-fitted.yaml"
    assert document["file"] == str(path)
    words = ("latency", "predict", tmp_path / "n3.onnx", "--json", "--target")
    (plain,) = json.loads(edgekd(*words, "jetson-orin").stdout)
    (named,) = json.loads(edgekd(*words, "jetson-agx-orin-64gb-fitted").stdout)
    (filed,) = json.loads(edgekd(*words, path).stdout)
    (lent,) = json.loads(edgekd(*words, "jetson-orin", "--parameters", path).stdout)
    assert named["p50_ms"] == filed["p50_ms"] == lent["p50_ms"] == pytest.approx(1.4 * plain["p50_ms"], rel=0.05)
    assert (named["target"], lent["target"]) == ("jetson-agx-orin-64gb-fitted", "jetson-orin")


def test_parameters_fitted_on_one_board_are_not_taken_for_those_of_another(edgekd, measured, tmp_path):
    assert edgekd("latency", "fit", "--from", measured, "--target", "jetson-orin").exit_code == 0
    path = tmp_path / "own" / "targets" / "jetson-agx-orin-64gb-fitted.yaml"
    words = ("latency", "predict", tmp_path / "n3.onnx", "--parameters", path, "--target")
    other = edgekd(*words, "rtx-3090")
    assert (other.exit_code, "generation orin, rtx-3090 is ampere-desktop" in other.stderr) == (2, True)
    sibling = edgekd(*words, "jetson-orin-nx-16gb").stdout
    assert "this board was not measured: parameters of its generation (jetson-agx-orin-64gb, fitted on 6" in sibling
    assert "not measured:" not in edgekd(*words, "jetson-orin").stdout


def test_fit_refuses_times_in_other_units(edgekd, measured):
    rows = [line.split(",") for line in measured.read_text().splitlines()[1:]]
    text = "\n".join(["model,p50_ms", *(f"{model},{1e3 * float(p50_ms)}" for model, p50_ms in rows)])
    measured.write_text(text)
    result = edgekd("latency", "fit", "--from", measured, "--target", "jetson-orin")
    assert (result.exit_code, "n0: " in result.stderr, "in milliseconds" in result.stderr) == (1, True, True)


def test_fit_prints_each_network_the_errors_and_the_interval(edgekd, measured, tmp_path):
    words = ("latency", "fit", "--from", measured, "--target", "jetson-orin", "--out", tmp_path / "mine.yaml")
    text = edgekd(*words).stdout
    assert "mean error 28.6% before, " in text
    assert "90 % interval of a network like these: -" in text
    assert all(f"n{index}" in text for index in range(6))
    assert (edgekd(*words).exit_code, edgekd(*words, "--force").exit_code) == (2, 0)


def test_fit_writes_nothing_on_a_dry_run_or_when_it_cannot(edgekd, measured, tmp_path):
    out = tmp_path / "mine.yaml"
    words = ("latency", "fit", "--from", measured, "--target", "jetson-orin", "--out", out)
    assert edgekd(*words, "--dry-run").exit_code == 0
    measured.write_text("\n".join(measured.read_text().splitlines()[:4]))
    few = edgekd(*words)
    assert (few.exit_code, "3 network(s) in 3 measurement(s) on jetson-orin are too few" in few.stderr) == (1, True)
    assert not out.exists()


def test_parameters_file_without_parameters_is_refused(edgekd, table, tmp_path):
    words = ("targets", "add", "mine", "--like", "jetson-orin-nx-16gb", "--file", tmp_path / "mine.yaml")
    assert edgekd(*words).exit_code == 0
    used = ("--target", "jetson-orin", "--parameters", tmp_path / "mine.yaml")
    result = edgekd("latency", "predict", "--layers", table, *used)
    assert (result.exit_code, "holds no latency parameters" in result.stderr) == (2, True)


def external() -> list[Path]:
    return sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


MACS = {
    "light_bvlc_alexnet": 0.66e9,
    "light_densenet121": 2.83e9,
    "light_inception_v1": 1.58e9,
    "light_resnet50": 4.09e9,
    "light_squeezenet": 0.35e9,
    "light_vgg19": 19.6e9,
}
"""Multiply-accumulates of these networks as published, at 224 x 224."""


@pytest.mark.parametrize("path", external(), ids=lambda path: path.stem)
def test_external_networks_are_analysed(edgekd, path):
    result = edgekd("latency", "show", path, "--target", "jetson-orin", "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    macs = sum(layer["macs"] for layer in shown["layers"])
    assert 0 < shown["low_ms"] < shown["p50_ms"] < shown["high_ms"]
    assert (shown["model"], shown["size"]) == (path.stem, 224)
    if path.stem in MACS:
        assert macs == pytest.approx(MACS[path.stem], rel=0.12)


def test_all_nine_external_networks_are_there():
    assert len(external()) == 9
