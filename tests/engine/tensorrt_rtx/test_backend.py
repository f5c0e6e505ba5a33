"""Real builds, on a CPU."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekd.core.errors import BuildError, ConfigError, PreconditionError, TargetError
from edgekd.core.events import Event
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.engine.cuda_driver import Gpus
from edgekd.engine.tensorrt_rtx import CAPABILITIES, TensorRtRtx, compute_capability
from edgekd.targets import Target, get_target

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt_rtx (extra rtx)")


def target_of(sm: int) -> Target:
    return dataclasses.replace(get_target("rtx-4090"), sm=sm)


@pytest.fixture
def backend():
    return BACKENDS["tensorrt_rtx"]


@pytest.mark.parametrize(
    ("kind", "sm"),
    [("fp16", 75), ("fp32", 80), ("fp16", 86), ("int8", 86), ("fp32", 89), ("int8", 120), ("fp16", 121)],
)
def test_build_makes_a_real_engine_with_the_precision_of_the_onnx(backend, onnx_model, tmp_path, kind, sm):
    model = onnx_model(kind)
    engine = backend.build(model, tmp_path / "engine", BuildOptions(target_of(sm), batch=2, max_batch=8))
    assert Path(engine.file.path).read_bytes()[:4] == b"vtrt"
    assert engine.file.is_intact()
    assert (engine.backend, engine.target, engine.precision) == ("tensorrt_rtx", f"sm_{sm}", kind)
    assert engine.parents == (model.digest,)
    fusion = engine.facts["fusion"]
    assert set(fusion["compute_precisions"]) <= {kind, "fp32"}
    assert fusion["compute_precisions"][kind] >= 2
    assert fusion["activation_bytes"] > 0
    assert fusion["weight_bytes"] > 0
    assert engine.facts["version"] == tensorrt_rtx.__version__


def test_build_report_names_layers_nodes_and_batch_profile(backend, onnx_model, tmp_path):
    events: list[Event] = []
    options = BuildOptions(target_of(86), batch=2, max_batch=8, listener=events.append)
    engine = backend.build(onnx_model("fp32"), tmp_path, options)
    fusion, facts = engine.facts["fusion"], engine.facts
    convolutions = [layer for layer in fusion["layers"] if layer["kind"] == "correlation"]
    assert [layer["outputs"][0]["shape"] for layer in convolutions] == [[-1, 8, 8, 8], [-1, 16, 4, 4]]
    assert convolutions[0]["constants"][0]["shape"] == [8, 3, 3, 3]
    assert {"node_conv0", "node_relu0"} <= {name for layer in convolutions for name in layer["onnx_nodes"]}
    assert fusion["num_layers"] == len(fusion["layers"]) == sum(fusion["layers_by_kind"].values())
    source, sink = facts["io_tensors"]
    assert (source["name"], source["min_shape"], source["opt_shape"], source["max_shape"]) == (
        "input",
        [1, 3, 16, 16],
        [2, 3, 16, 16],
        [8, 3, 16, 16],
    )
    assert (sink["name"], sink["dtype"], sink["shape"]) == ("logits", "fp32", [-1, 10])
    sidecar = json.loads((tmp_path / "build.json").read_text())
    assert sidecar["facts"]["fusion"] == fusion
    assert sidecar["file"] == {
        "name": "model.engine",
        "sha256": engine.file.sha256,
        "size_bytes": engine.file.size_bytes,
    }
    assert str(tmp_path) not in json.dumps(sidecar)
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds[-1]) == ("start", "end")
    assert sum(event.kind == "progress" and event.total > 0 for event in events) > 5
    assert (tmp_path / "build.log").read_text().count("Total Activation Memory") == 1


def test_build_is_reproducible_byte_for_byte(backend, onnx_model, tmp_path):
    model = onnx_model("int8")
    first, second = (
        backend.build(model, tmp_path / name, BuildOptions(target_of(89))) for name in ("one", "another/place")
    )
    assert Path(first.file.path).read_bytes() == Path(second.file.path).read_bytes()
    assert first.digest == second.digest
    assert first.facts["fusion"] == second.facts["fusion"]


def test_build_failure_carries_the_builders_own_words(backend, onnx_model, tmp_path):
    with pytest.raises(BuildError, match=r"Turing \(SM75\): FP32 GEMM is not supported"):
        backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(target_of(75)))
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == ["build.log"]


def test_build_of_fixed_batch_needs_no_profile_and_another_batch_is_refused(backend, onnx_model, tmp_path):
    model = onnx_model("fp32", batch=4)
    engine = backend.build(model, tmp_path, BuildOptions(target_of(86), batch=4))
    assert (engine.facts["min_batch"], engine.facts["max_batch"]) == (4, 4)
    assert engine.facts["io_tensors"][0]["shape"] == [4, 3, 16, 16]
    with pytest.raises(ConfigError, match="fixed batch 4, but batch 1"):
        backend.build(model, tmp_path, BuildOptions(target_of(86)))


def test_build_is_refused_when_the_precision_is_not_the_one_asked_for(backend, onnx_model, tmp_path):
    mislabelled = dataclasses.replace(onnx_model("fp32"), precision="fp16")
    with pytest.raises(BuildError, match=r"fp16 was asked for, but of 3 .* 3 in fp32; .*conv0"):
        backend.build(mislabelled, tmp_path / "engine", BuildOptions(target_of(86)))
    assert not (tmp_path / "engine" / "model.engine").exists()
    with pytest.raises(BuildError, match=r"fp32 was asked for, but .* in fp16"):
        backend.build(
            dataclasses.replace(onnx_model("fp16"), precision="fp32"), tmp_path / "e", BuildOptions(target_of(86))
        )


def test_build_names_the_node_of_an_unsupported_operation(backend, onnx_model, tmp_path):
    def edit(proto):
        proto.graph.node[1].op_type = "Frobnicate"
        proto.graph.node[1].domain = "my.ops"
        proto.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))

    with pytest.raises(BuildError, match=r"'node_relu0' \(Frobnicate\): .*Plugin not found"):
        backend.build(onnx_model("fp32", edit=edit), tmp_path / "engine", BuildOptions(target_of(86)))


def test_build_is_stopped_when_it_takes_too_long(backend, onnx_model, tmp_path):
    with pytest.raises(BuildError, match=r"longer than 0.05 s and was stopped"):
        backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(target_of(86), timeout_s=0.05))
    assert not (tmp_path / "engine" / "model.engine").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jetson-orin", r"does not build for Jetson \(jetson-orin, sm_87\); it builds for sm_75, .*tensorrt backend"),
        ("jetson-agx-thor", "does not build for Jetson"),
        ("h200", r"does not build for sm_90 \(h200\)"),
        ("cpu", "cpu has no NVIDIA GPU"),
    ],
)
def test_targets_it_cannot_build_for_are_refused_with_advice(backend, onnx_model, tmp_path, name, message):
    with pytest.raises(TargetError, match=message):
        backend.build(onnx_model("fp32"), tmp_path, BuildOptions(get_target(name)))


def test_capabilities_are_those_of_the_installed_builder():
    known = set(tensorrt_rtx.ComputeCapability.__members__) - {"NONE", "CURRENT"}
    assert known == set(CAPABILITIES.values())
    assert compute_capability(get_target("rtx-3090")) == "SM86"
    assert compute_capability(get_target("rtx-5090")) == "SM120"


def test_model_faults_are_found_before_the_builder_starts(backend, onnx_model, tmp_path):
    def poison(proto):
        weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        weight[0] = np.nan
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight0"))

    options = BuildOptions(target_of(86))
    with pytest.raises(BuildError, match=r"1 weight\(s\) hold NaN or infinity: weight0"):
        backend.build(onnx_model("fp32", edit=poison), tmp_path / "e", options)
    old = BuildOptions(dataclasses.replace(options.target, read_opset=17))
    with pytest.raises(BuildError, match="opset 18 is newer than rtx-4090 takes .17."):
        backend.build(onnx_model("fp32", opset=18), tmp_path / "e", old)
    with pytest.raises(BuildError, match=r"its inputs are \['input'\], expected one named 'x'"):
        backend.build(dataclasses.replace(onnx_model("fp32"), input_name="x"), tmp_path / "e", options)
    with pytest.raises(BuildError, match=r"shape \[dynamic, 3, 16, 16\], expected \[dynamic, 1, 16, 16\]"):
        backend.build(dataclasses.replace(onnx_model("fp32"), input_shape=(1, 16, 16)), tmp_path / "e", options)
    with pytest.raises(BuildError, match=r"its outputs are \['logits'\], expected one named 'y'"):
        backend.build(dataclasses.replace(onnx_model("fp32"), output_name="y"), tmp_path / "e", options)
    with pytest.raises(BuildError, match="its opset is 17, not 16"):
        backend.build(dataclasses.replace(onnx_model("fp32"), opset=16), tmp_path / "e", options)
    with pytest.raises(BuildError, match="unsigned activations"):
        backend.build(onnx_model("int8-cpu"), tmp_path / "e", options)
    assert not (tmp_path / "e").exists()


def test_open_without_a_matching_gpu_says_what_is_needed(onnx_model, tmp_path):
    engine = BACKENDS["tensorrt_rtx"].build(onnx_model("fp32"), tmp_path, BuildOptions(target_of(86)))
    with pytest.raises(TargetError, match=r"needs an NVIDIA GPU of sm_86 and its driver: no driver"):
        TensorRtRtx(gpus=lambda: Gpus((), "no driver")).open(engine)
    with pytest.raises(TargetError, match="sm_86 and its driver: this machine has sm_90"):
        TensorRtRtx(gpus=lambda: Gpus((90,))).open(engine)
    Path(engine.file.path).write_bytes(b"tampered")
    with pytest.raises(BuildError, match="was changed after it was built"):
        TensorRtRtx(gpus=lambda: Gpus((86,))).open(engine)


def test_available_tells_how_to_install_when_the_package_is_missing(onnx_model, tmp_path, monkeypatch):
    assert TensorRtRtx().available() is None
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert "pip install 'edgekd[rtx]'" in TensorRtRtx().available()
    with pytest.raises(PreconditionError, match="tensorrt_rtx"):
        TensorRtRtx().build(onnx_model("fp32"), tmp_path, BuildOptions(target_of(86)))
