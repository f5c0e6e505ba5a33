"""A real network on this CPU, with rails of a pretended board."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.profile import ProfileOptions, Rail, chrome_trace, document_of, profile_from_document, profile_here
from edgekd.targets import get_target

pytest.importorskip("onnxruntime")
QUICK = ProfileOptions(min_samples=60, min_seconds=0.1)


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "block.conv.weight"),
        numpy_helper.from_array(rng.standard_normal((8, 5)).astype(np.float32), "head.weight"),
    ]
    nodes = [
        helper.make_node("Conv", ["input", "block.conv.weight"], ["c"], "block.conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "block/Relu"),
        helper.make_node("ReduceMean", ["r"], ["m"], "pool/ReduceMean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "head.weight"], ["logits"], "head/MatMul"),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "g", [image], [logits], weights)
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxModel(FileRef.of(path), "fp32", "any", 17, "input", (3, 32, 32), "logits", 1)


def test_latency_and_memory_of_a_network(model, tmp_path):
    found = profile_here(model, tmp_path / "engine", get_target("cpu"), QUICK)
    assert found.report.p50_ms == sorted(found.samples_ms)[(len(found.samples_ms) - 1) // 2]
    assert len(found.samples_ms) == found.report.conditions["samples"] >= 60
    assert found.report.conditions["warmup"] >= 30
    assert (found.layers, found.energy) == ((), None)
    assert found.memory_mb["process_peak"] > found.memory_mb["engine_and_runs"] >= 0


def test_layers_of_a_network_are_named_after_its_modules(model, tmp_path):
    found = profile_here(model, tmp_path / "engine", get_target("cpu"), dataclasses.replace(QUICK, has_layers=True))
    assert {module for layer in found.layers for module in layer.modules} == {"block.conv", "block", "pool", "head"}


def test_energy_is_that_of_the_rails_while_it_ran(model, tmp_path):
    rails = (Rail("VDD_IN", lambda: 6.0), Rail("VDD_SOC", lambda: 1.0))
    options = dataclasses.replace(QUICK, rails=rails, idle_s=0.1)
    found = profile_here(model, tmp_path / "engine", get_target("cpu"), options)
    mean_ms = (found.spans[-1].end_ms - found.spans[0].start_ms) / len(found.samples_ms)
    assert found.energy.total.gross_mj == pytest.approx(6.0 * mean_ms, rel=1e-6)
    assert found.energy.total.net_mj == pytest.approx(0.0, abs=1e-9)
    assert [rail.rail for rail in found.energy.rails] == ["VDD_IN", "VDD_SOC"]


def test_its_document_and_its_trace_hold_every_run(model, tmp_path):
    found = profile_here(model, tmp_path / "engine", get_target("cpu"), dataclasses.replace(QUICK, has_layers=True))
    again = profile_from_document(document_of(found), "doc")
    assert (again.report, again.layers, again.memory_mb) == (found.report, found.layers, found.memory_mb)
    assert again.samples_ms == pytest.approx(found.samples_ms, abs=1e-6)
    runs = [event for event in chrome_trace(found)["traceEvents"] if event["name"] == "run"]
    assert [event["dur"] for event in runs] == pytest.approx([1e3 * one for one in found.samples_ms], abs=1e-3)
