"""A board without trtexec: the tensorrt of its Python builds and measures, by the names of the true bindings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.boards import BoardOptions
from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.engine.portability import Portability
from edgekd.profile.document import profile_from_document

FAKE = Path(__file__).parents[1] / "engine" / "tensorrt" / "fake"
HERE = Path(__file__).parent


@pytest.fixture
def python_board(bench, tmp_path_factory):
    """Take trtexec away and give the board's Python a fake `tensorrt` and a CUDA driver of malloc."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is needed for the pretended CUDA driver")
    folder = tmp_path_factory.mktemp("cuda")
    command = [compiler, "-shared", "-fPIC", "-w", "-o", folder / "libcuda.so.1", HERE / "pretended" / "libcuda.c"]
    subprocess.run(command, check=True)
    next(bench.board.root.rglob("trtexec")).unlink()
    python = bench.folder / "bin" / "python3"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def set_version(version: str) -> None:
        paths = f"PYTHONPATH='{FAKE}' LD_LIBRARY_PATH='{folder}' EDGEKD_TEST_FAKE_TENSORRT={version}"
        login = bench.folder / "login"
        login.write_text(login.read_text().replace("export HOME", f"export {paths} HOME"))

    bench.set_version = set_version
    return bench


def pooled_net(path: Path, *, kind=TensorProto.FLOAT, batch=1) -> OnnxModel:
    weights = np.random.default_rng(0).standard_normal((10, 3, 1, 1))
    typed = weights.astype(np.float16 if kind == TensorProto.FLOAT16 else np.float32)
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=kind),
        helper.make_node("Conv", ["x", "w"], ["c"], name="Conv_0"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Cast", ["f"], ["logits"], to=TensorProto.FLOAT),
    ]
    shape = [batch or "B", 3, 8, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], 10])],
        [numpy_helper.from_array(typed, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    precision = "fp16" if kind == TensorProto.FLOAT16 else "fp32"
    return OnnxModel(FileRef.of(path), precision, "any", 17, "input", (3, 8, 8), "logits", batch)


@pytest.mark.parametrize(
    ("version", "typing", "kind", "batch"),
    [
        ("8.6", "weak", TensorProto.FLOAT16, 1),
        ("10.3", "strong", TensorProto.FLOAT16, 0),
        ("11.4", "strong", TensorProto.FLOAT, 1),
    ],
)
def test_python_of_the_board_builds_and_measures(python_board, tmp_path, version, typing, kind, batch) -> None:
    python_board.set_version(version)
    model = pooled_net(tmp_path / "net.onnx", kind=kind, batch=batch)
    options = BoardOptions(duration_s=1, profile_s=1, warm_up_ms=100, batch=1, workspace_mb=64)
    result = python_board.build(model, tmp_path / "out", options)
    assert result.error is None, result.error
    folder = tmp_path / "out" / "board"
    assert (folder / "model.plan").read_bytes().startswith(b"ftrt")
    facts = result.engine.facts
    assert (facts["built_by"], facts["typing"]) == ("tensorrt of its Python", typing)
    assert facts["version"].startswith(version)
    assert facts["timing_mode"]["cuda_graph"] is False
    rows = json.loads((folder / "times.json").read_text())
    assert len(rows) >= 10
    assert all(0 < row["computeMs"] == row["latencyMs"] for row in rows)
    assert rows[-1]["startEnqMs"] >= rows[0]["endComputeMs"]
    assert facts["measured"] == "measured.json"
    measured = profile_from_document(json.loads((folder / "measured.json").read_text()), "measured.json")
    assert len(measured.samples_ms) == len(rows) and measured.layers
    count, layer = json.loads((folder / "profile.json").read_text())
    assert layer == {"name": "Conv_0", "timeMs": 0.25 * count["count"], "averageMs": 0.25, "percentage": 100.0}


def test_model_that_the_parser_refuses_is_named(python_board, tmp_path) -> None:
    python_board.set_version("10.3")
    model = pooled_net(tmp_path / "net.onnx")
    proto = onnx.load(model.file.path)
    proto.graph.node[1].domain = "own.domain"
    proto.opset_import.append(helper.make_opsetid("own.domain", 1))
    onnx.save(proto, model.file.path)
    broken = OnnxModel(FileRef.of(Path(model.file.path)), "fp32", "any", 17, "input", (3, 8, 8), "logits", 1)
    result = python_board.build(broken, tmp_path / "out")
    assert "No importer registered for op: Conv" in str(result.error)


def test_python_of_the_board_is_told_of_level_and_portability(python_board, tmp_path) -> None:
    python_board.set_version("10.3")
    how = {"duration_s": 1, "profile_s": 1, "warm_up_ms": 100, "optimization_level": 4}
    options = BoardOptions(**how, portability=Portability(version=True))
    result = python_board.build(pooled_net(tmp_path / "net.onnx"), tmp_path / "out", options)
    assert result.error is None, result.error
    header = json.loads((tmp_path / "out" / "board" / "model.plan").read_bytes()[4:].partition(b"\n")[0])
    assert header["level"] == 4 and "VERSION_COMPATIBLE" in header["flags"]
    assert result.engine.facts["portability"]["version"] is True and result.engine.facts["optimization_level"] == 4
