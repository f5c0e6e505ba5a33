"""ONNX files from elsewhere: one that can be analysed, one whose sizes are open, one that is no model."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCRIPT = Path(__file__).parents[2] / "tools" / "latency" / "external.py"


def _net(path, height):
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, height, 8])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_every_file_is_a_row_analysed_or_refused_with_the_reason(tmp_path):
    _net(tmp_path / "fixed.onnx", 1024)
    _net(tmp_path / "given.onnx", "height")
    _net(tmp_path / "open.onnx", "height")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "dims.json").write_text(json.dumps({"given.onnx": {"height": 1024}}))
    table = tmp_path / "rows.csv"
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, "--into", table], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 analysed, 2 refused\n"
    rows = {row["file"]: row for row in csv.DictReader(table.open())}
    macs = f"{1024 * 8 * 4 * 27 / 1e9:.3f}"
    assert [rows[name]["gmacs"] for name in ("fixed.onnx", "given.onnx")] == [macs, macs]
    assert rows["fixed.onnx"]["p50_ms"] == rows["given.onnx"]["p50_ms"] > "0" and not rows["fixed.onnx"]["refused"]
    assert "--dim height=224" in rows["open.onnx"]["refused"] and str(tmp_path) not in rows["open.onnx"]["refused"]
    assert rows["text.onnx"]["refused"] and not rows["text.onnx"]["p50_ms"]
