import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from edgekd.core.artifacts import FileRef
from edgekd.core.errors import BuildError, ConfigError, DataError, PreconditionError, TargetError
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.engine.onnxruntime import compute_precisions
from edgekd.targets import get_target

CPU = get_target("cpu")


@pytest.fixture
def backend():
    return BACKENDS["onnxruntime"]


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int8-cpu"])
def test_runner_agrees_with_the_reference_evaluator(backend, onnx_model, images, tmp_path, kind):
    model = onnx_model(kind)
    engine = backend.build(model, tmp_path / "engine", BuildOptions(CPU, max_batch=8))
    with backend.open(engine) as runner:
        got = runner.run(images)
    proto = onnx.load(model.file.path)
    proto.opset_import[0].version = 19  # the evaluator has no older Q/DQ; the same sums
    (expected,) = ReferenceEvaluator(proto).run(None, {"input": images})
    tolerance = {"fp32": 1e-5, "fp16": 5e-3}.get(kind, 2e-2)
    assert got.dtype == np.float32
    assert got.shape == (8, 10)
    np.testing.assert_allclose(got, expected, atol=tolerance)
    assert np.ptp(expected) > 10 * tolerance


def test_build_records_what_really_computes(backend, onnx_model, tmp_path):
    counts = {
        kind: backend.build(onnx_model(kind), tmp_path / kind, BuildOptions(CPU)).facts["compute_precisions"]
        for kind in ("fp32", "int8-cpu")
    }
    assert counts["fp32"] == {"fp32": 3}
    assert counts["int8-cpu"]["int8"] == 2


def test_build_counts_float_sums_with_stored_int8_weights_as_float(backend, onnx_model, tmp_path):
    def shift_zeros(proto):  # a Relu before a zero point other than 0 keeps the pattern from being fused
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.UINT8:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(10, np.uint8), tensor.name))

    engine = backend.build(onnx_model("int8-cpu", edit=shift_zeros), tmp_path, BuildOptions(CPU))
    assert engine.facts["compute_precisions"] == {"fp32": 3}


def test_run_reports_what_onnx_runtime_says(backend, onnx_model, images, tmp_path):
    def edit(proto):  # logits reshaped to ten rows: fails when the batch is not ten
        proto.graph.node[-1].output[0] = "scores"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10, 10]), "shape"))
        proto.graph.node.append(onnx.helper.make_node("Reshape", ["scores", "shape"], ["logits"], name="bad_reshape"))

    engine = backend.build(onnx_model("fp32", edit=edit), tmp_path, BuildOptions(CPU))
    with backend.open(engine) as runner, pytest.raises(BuildError, match="ONNX Runtime failed to run .*bad_reshape"):
        runner.run(images)


def test_build_engine_is_the_onnx_itself_and_sidecar_tells_how(backend, onnx_model, tmp_path):
    model = onnx_model("fp32")
    engine = backend.build(model, tmp_path / "engine", BuildOptions(CPU, threads=2))
    assert engine.file == model.file
    assert engine.parents == (model.digest,)
    assert (engine.backend, engine.target, engine.precision) == ("onnxruntime", "cpu", "fp32")
    facts = engine.facts
    assert (facts["provider"], facts["threads"], facts["version"]) == (
        "CPUExecutionProvider",
        2,
        onnxruntime.__version__,
    )
    assert facts["num_nodes"] < facts["num_parsed_nodes"] + 3
    sidecar = json.loads((tmp_path / "engine" / "build.json").read_text())
    assert sidecar["file"] == {
        "name": "fp32-0.onnx",
        "sha256": model.file.sha256,
        "size_bytes": Path(model.file.path).stat().st_size,
    }
    assert sidecar["digest"] == engine.digest
    assert sidecar["facts"] == json.loads(json.dumps(facts))
    assert str(tmp_path) not in json.dumps(sidecar)


def test_open_uses_the_threads_asked_for(backend, onnx_model, tmp_path, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def spy(path, options, **rest):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads, rest["providers"]))
        return real(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    engine = backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(CPU, threads=2))
    with backend.open(engine) as runner:
        assert runner.facts["threads"] == 2
        assert runner.provider == "CPUExecutionProvider"
    assert seen == [(2, 1, ["CPUExecutionProvider"])] * 2


def test_build_is_refused_when_the_provider_is_not_installed(backend, onnx_model, tmp_path):
    options = BuildOptions(get_target("rtx-4090"), provider="CUDAExecutionProvider")
    with pytest.raises(BuildError, match=r"has no CUDAExecutionProvider; installed are .*CPUExecutionProvider"):
        backend.build(onnx_model("fp32"), tmp_path / "engine", options)
    assert not (tmp_path / "engine").exists()


def test_build_is_refused_when_a_listed_provider_is_not_really_used(backend, onnx_model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    options = BuildOptions(get_target("rtx-4090"), provider="CUDAExecutionProvider")
    with pytest.raises(BuildError, match="CUDAExecutionProvider was asked for, but ONNX Runtime really uses CPUExec"):
        backend.build(onnx_model("fp32"), tmp_path / "engine", options)


@pytest.mark.parametrize(
    ("target", "provider"), [("jetson-orin", "CPUExecutionProvider"), ("cpu", "CUDAExecutionProvider")]
)
def test_build_is_refused_when_provider_and_target_do_not_fit(backend, onnx_model, tmp_path, target, provider):
    with pytest.raises(TargetError, match=f"{provider} does not run on {target}"):
        backend.build(onnx_model("fp32"), tmp_path, BuildOptions(get_target(target), provider=provider))


def test_available_and_build_tell_how_to_install_when_the_package_is_missing(
    backend, onnx_model, tmp_path, monkeypatch
):
    assert backend.available() is None
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert "pip install 'edgekd[cpu]'" in backend.available()
    with pytest.raises(PreconditionError, match="onnxruntime"):
        backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(CPU))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), "takes float32 in 0..1, not float64"),
        (lambda x: x[:, :2], r"shape \[1.., 3, 16, 16\], not \[8, 2, 16, 16\]"),
        (lambda x: x[0], r"not \[3, 16, 16\]"),
        (lambda x: x[:0], r"not \[0, 3, 16, 16\]"),
        (lambda x: x.tolist(), "numpy array, not list"),
    ],
)
def test_runner_explains_wrong_inputs(backend, onnx_model, images, tmp_path, change, message):
    engine = backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(CPU))
    with backend.open(engine) as runner, pytest.raises(DataError, match=message):
        runner.run(change(images))


def test_runner_of_fixed_batch_takes_only_that_batch(backend, onnx_model, images, tmp_path):
    engine = backend.build(onnx_model("fp32", batch=4), tmp_path / "engine", BuildOptions(CPU, batch=4))
    with backend.open(engine) as runner:
        assert runner.run(images[:4]).shape == (4, 10)
        with pytest.raises(DataError, match=r"\[4, 3, 16, 16\], not \[8"):
            runner.run(images)


def test_runner_accepts_transposed_views(backend, onnx_model, images, tmp_path):
    engine = backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(CPU))
    view = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with backend.open(engine) as runner:
        np.testing.assert_array_equal(runner.run(view), runner.run(images))


def test_runner_refuses_to_run_when_closed(backend, onnx_model, images, tmp_path):
    runner = backend.open(backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(CPU)))
    with runner:
        pass
    with pytest.raises(BuildError, match="closed"):
        runner.run(images)


def test_open_is_refused_when_the_model_was_changed(backend, onnx_model, tmp_path):
    model = onnx_model("fp32")
    engine = backend.build(model, tmp_path / "engine", BuildOptions(CPU))
    Path(model.file.path).write_bytes(b"other")
    with pytest.raises(BuildError, match="missing or was changed after it was built"):
        backend.open(engine)


def test_build_reports_what_onnx_runtime_refuses(backend, onnx_model, tmp_path):
    def use_unknown_op(proto):
        proto.graph.node[1].op_type = "Frobnicate"
        proto.graph.node[1].domain = "my.ops"
        proto.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))

    with pytest.raises(BuildError, match=r"ONNX Runtime refused fp32-0.onnx: .*Frobnicate"):
        backend.build(onnx_model("fp32", edit=use_unknown_op), tmp_path / "engine", BuildOptions(CPU))


def test_build_is_refused_when_the_model_was_changed_after_export(backend, onnx_model, tmp_path):
    model = onnx_model("fp32")
    Path(model.file.path).unlink()
    with pytest.raises(BuildError, match="missing or was changed after its export"):
        backend.build(model, tmp_path / "engine", BuildOptions(CPU))


def test_build_reports_garbage(backend, onnx_model, tmp_path):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"\x00garbage")
    with pytest.raises(BuildError, match="not a valid ONNX model"):
        backend.build(replace(onnx_model("fp32"), file=FileRef.of(path)), tmp_path / "engine", BuildOptions(CPU))


def test_compute_precisions_counts_by_constant_types(onnx_model):
    graph = onnx.load(onnx_model("fp16").file.path).graph
    assert compute_precisions(graph) == {"fp16": 3}
    graph.node[1].op_type = "QLinearConv"
    assert compute_precisions(graph) == {"fp16": 2, "int8": 1}
    del graph.initializer[:]
    assert compute_precisions(graph) == {"int8": 1, "unknown": 2}


def test_build_options_list_every_problem():
    with pytest.raises(ConfigError) as caught:
        BuildOptions(CPU, batch=0, threads=0, timeout_s=0, workspace_mb=-1)
    for word in ("batch is 0", "threads is 0", "timeout_s is 0", "workspace_mb is -1"):
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match="max_batch is 2, less than batch 4"):
        BuildOptions(CPU, batch=4, max_batch=2)
    assert (BuildOptions(CPU, batch=4).largest_batch, BuildOptions(CPU, batch=4, max_batch=9).largest_batch) == (4, 9)
