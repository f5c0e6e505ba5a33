"""Builds for the record: own networks in four precisions, files from elsewhere with given sizes, refusals as rows."""

import csv
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tensorrt_rtx")


def _save(path, sizes):
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, *sizes])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])
    graph = helper.make_graph(nodes, "g", [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_every_build_and_every_refusal_is_a_row_and_is_made_once(bench, tmp_path, monkeypatch):
    builds, file, folder = bench("rtx_builds"), tmp_path / "rows.csv", tmp_path / "files"
    folder.mkdir()
    _save(folder / "given.onnx", ["height", 16])
    _save(folder / "open.onnx", ["height", 16])
    (folder / "dims.json").write_text(json.dumps({"given.onnx": {"height": 16}}))
    monkeypatch.setattr("sys.argv", ["rtx_builds.py", str(folder), "--into", str(file), "--own", "resnet8-w4"])
    builds.main()
    rows = {(row["model"], row["precision"]): row for row in csv.DictReader(file.open())}
    for precision in ("fp32", "fp16", "int8", "fp8"):
        assert rows["resnet8-w4", precision]["computes_in"].startswith(f"{precision}:"), rows
    assert rows["given.onnx", "fp16"]["computes_in"] == "fp16:1" and rows["given.onnx", "fp32"]["dims"] == "height=16"
    assert all(
        "has shape [1, 4, height, 16]" in rows["open.onnx", precision]["refused"] for precision in ("fp32", "fp16")
    )
    assert len(rows) == 8
    before = file.read_bytes()
    builds.main()
    assert file.read_bytes() == before
