"""The whole path against a fake restricted to the true names of 8.6, 10.3, 10.14 and 11.4."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgekd.core.artifacts import FileRef
from edgekd.core.errors import BuildError, DataError, PreconditionError, TargetError
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.engine.cuda_driver import Gpus
from edgekd.engine.device_memory import CudaPythonMemory
from edgekd.engine.plan_job import job_for
from edgekd.engine.plan_network import BuilderLog, BuildRefused
from edgekd.engine.portability import Portability
from edgekd.engine.tensorrt import TensorRt, Typing, typing_of
from edgekd.engine.tensorrt.build import build_plan
from edgekd.engine.tensorrt_rtx import TensorRtRtx
from edgekd.targets import get_target

ORIN = get_target("jetson-orin")


def backend_with(trt, cudart, sms=(87,)):
    return TensorRt(lambda: trt, lambda: Gpus(sms), lambda: CudaPythonMemory(cudart))


def missing():
    raise ImportError("No module named 'tensorrt'")


def test_fake_invents_no_names(trt):
    api = Path(__file__).parent / "api"
    known = [json.loads(path.read_text())["classes"] for path in api.glob("*.json")]
    for name, members in trt.fake_members.items():
        everywhere = {member for classes in known for member in classes.get(name, [])}
        if name != "ILogger":
            assert set(members) <= everywhere, name
    assert not hasattr(trt.Builder, "build_engine")
    with pytest.raises(AttributeError, match="has no max_workspace_sizes"):
        trt.Builder(type("L", (), {"_is_initialised": True})).create_builder_config().max_workspace_sizes = 1


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_build_and_run_on_every_version(trt, cudart, onnx_model, images, tmp_path, kind):
    model = onnx_model(kind)
    cache = tmp_path / "timing.cache"
    options = BuildOptions(ORIN, batch=2, max_batch=8, workspace_mb=64, timing_cache=cache)
    backend = backend_with(trt, cudart)
    engine = backend.build(model, tmp_path / "engine", options)
    is_strong = not trt.__version__.startswith("8")
    flags = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8"]}[kind]
    facts = engine.facts
    assert (facts["typing"], facts["builder_flags"]) == (("strong", []) if is_strong else ("weak", flags))
    assert (facts["version"], engine.target) == (trt.__version__, "sm_87")
    assert facts["fusion"]["compute_precisions"][kind] >= 2
    assert facts["timing_cache"]["size_bytes"] == len(cache.read_bytes()) > 0
    assert "a warning of the builder" in facts["warnings"]
    assert json.loads((tmp_path / "engine" / "build.json").read_text())["facts"]["fusion"] == facts["fusion"]
    proto = onnx.load(model.file.path)
    proto.opset_import[0].version = 19
    (expected,) = ReferenceEvaluator(proto).run(None, {"input": images[:5]})
    with backend.open(engine) as runner:
        np.testing.assert_allclose(runner.run(images[:5]), expected, atol=1e-5)
        np.testing.assert_allclose(runner.run(images[:2]), expected[:2], atol=1e-5)
        view = np.ascontiguousarray(images[:5].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(runner.run(view), runner.run(images[:5]))
        assert runner.provider == "tensorrt through cuda-python"
        assert runner.facts["max_batch"] == 8
    assert cudart.live == {}
    assert cudart.streams == set()
    with pytest.raises(BuildError, match="closed"):
        runner.run(images)


def _answers(model, images):
    proto = onnx.load(model.file.path)
    proto.opset_import[0].version = 19
    return ReferenceEvaluator(proto).run(None, {"input": images})[0]


def test_a_graph_is_replayed_from_the_third_run_of_a_batch_on(trt_10_3, cudart, onnx_model, images, tmp_path):
    trt_10_3.fake_recorder = cudart.record
    model, backend = onnx_model("fp32"), backend_with(trt_10_3, cudart)
    expected = _answers(model, images[:8])
    with backend.open(backend.build(model, tmp_path, BuildOptions(ORIN, batch=2, max_batch=4))) as runner:
        launches = []
        for start, end in ((0, 2), (2, 4), (4, 6), (6, 8), (0, 3), (2, 4), (4, 6), (0, 2)):
            before = cudart.launches
            result = runner.run(images[start:end])
            np.testing.assert_allclose(result, expected[start:end], atol=1e-5)
            launches.append(cudart.launches - before)
        assert launches == [0, 0, 1, 1, 0, 0, 0, 1]
        assert cudart.captures == 2
        assert runner.facts["cuda_graph"] is True
        assert list(cudart.graphs) == ["executable"]
        kept = runner.run(images[:2])
        runner.run(images[2:4])
        np.testing.assert_allclose(kept, expected[:2], atol=1e-5)  # not a view of what the next run overwrites
    assert (cudart.live, cudart.graphs, cudart.streams) == ({}, {}, set())


def test_a_plan_that_cannot_be_recorded_is_run_without_a_graph(trt_10_3, cudart, onnx_model, images, tmp_path):
    trt_10_3.fake_recorder = lambda work: None if cudart.recording is not None else False
    model, backend = onnx_model("fp32"), backend_with(trt_10_3, cudart)
    expected = _answers(model, images[:2])
    with backend.open(backend.build(model, tmp_path, BuildOptions(ORIN, batch=2))) as runner:
        for _ in range(4):
            np.testing.assert_allclose(runner.run(images[:2]), expected, atol=1e-5)
        assert runner.facts["cuda_graph"].startswith("not recorded: the engine could not be run")
    assert (cudart.launches, cudart.captures, cudart.recording, cudart.live) == (0, 1, None, {})


def test_a_binding_without_graphs_is_named(trt_10_3, cudart, onnx_model, images, tmp_path):
    class Plain(CudaPythonMemory):
        name = "plain"

        def captured(self, work):
            return None

    backend = TensorRt(lambda: trt_10_3, lambda: Gpus((87,)), lambda: Plain(cudart))
    model = onnx_model("fp32")
    with backend.open(backend.build(model, tmp_path, BuildOptions(ORIN, batch=2))) as runner:
        for _ in range(3):
            np.testing.assert_allclose(runner.run(images[:2]), _answers(model, images[:2]), atol=1e-5)
        assert runner.facts["cuda_graph"] == "plain has none"


def _header(engine):
    return json.loads(Path(engine.file.path).read_bytes()[4:].partition(b"\n")[0])


def test_level_and_portability_reach_the_builder(trt, cudart, onnx_model, images, tmp_path):
    desktop = get_target("rtx-3060-12gb")
    options = BuildOptions(desktop, batch=2, optimization_level=5, portability=Portability(True, "ampere+"))
    backend, model = backend_with(trt, cudart, sms=(86,)), onnx_model("fp32")
    engine = backend.build(model, tmp_path, options)
    header = _header(engine)
    assert (header["level"], header["hardware"]) == (5, "AMPERE_PLUS")
    assert "VERSION_COMPATIBLE" in header["flags"]
    assert engine.facts["optimization_level"] == 5
    assert [advice.split()[0] for advice in engine.facts["portability"]["advice"]] == ["runs", "runs"]
    with backend_with(trt, cudart, sms=(120,)).open(engine) as runner:
        np.testing.assert_allclose(runner.run(images[:2]), _answers(model, images[:2]), atol=1e-5)
    with pytest.raises(TargetError, match="needs a GPU of sm_86"):
        backend_with(trt, cudart, sms=(75,)).open(engine)


def test_a_plan_is_tied_where_nothing_is_said(trt, cudart, onnx_model, tmp_path):
    header = _header(backend_with(trt, cudart).build(onnx_model("fp32"), tmp_path, BuildOptions(ORIN)))
    assert (header["level"], header["hardware"]) == (3, "NONE")
    assert "VERSION_COMPATIBLE" not in header["flags"]


def test_version_compatible_plans_open_in_newer_versions_and_not_in_older(
    make_fake_tensorrt, cudart, onnx_model, tmp_path, monkeypatch
):
    def built(version, portability):
        monkeypatch.setenv("EDGEKD_TEST_FAKE_TENSORRT", version)
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake"))
        options = BuildOptions(ORIN, portability=portability)
        return backend_with(make_fake_tensorrt(version), cudart).build(onnx_model("fp32"), tmp_path / version, options)

    engine = built("10.3", Portability(version=True))
    for version in ("10.3", "10.14", "11.4"):
        backend_with(make_fake_tensorrt(version), cudart).open(engine).__exit__(None, None, None)
    for other, version in ((engine, "8.6"), (built("8.6", Portability(version=True)), "11.4")):
        with pytest.raises(TargetError, match="do not move between versions"):
            backend_with(make_fake_tensorrt(version), cudart).open(other)


def test_what_a_version_or_a_board_cannot_is_refused(trt_10_3, cudart, onnx_model, tmp_path):
    same = Portability(hardware="same-sm")
    with pytest.raises(BuildError, match="10.3.0 knows no hardware compatibility same-sm"):
        backend_with(trt_10_3, cudart, sms=(86,)).build(
            onnx_model("fp32"), tmp_path, BuildOptions(get_target("rtx-3060-12gb"), portability=same)
        )
    with pytest.raises(BuildError, match="not for Jetson boards"):
        backend_with(trt_10_3, cudart).build(onnx_model("fp32"), tmp_path, BuildOptions(ORIN, portability=same))


def test_build_in_process_uses_only_names_that_exist(trt, onnx_model, tmp_path):
    steps = []
    options = BuildOptions(ORIN, workspace_mb=32)
    job = job_for(onnx_model("fp16"), options, plan=tmp_path / "p", report=tmp_path / "r", compute_capability="")
    plan, facts = build_plan(trt, job, BuilderLog(), lambda *step: steps.append(step))
    assert plan.startswith(b"ftrt")
    assert facts["num_parsed_layers"] == 9
    has_monitor = hasattr(trt, "IProgressMonitor")
    assert steps == ([("Building Engine", 0, 2), ("Building Engine", 1, 2), ("Building Engine", 2, 2)] * has_monitor)


def test_weakly_typed_build_without_its_flag_is_refused_by_the_read_back(
    make_fake_tensorrt, cudart, onnx_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("edgekd.engine.tensorrt.features._PRECISION_FLAGS", {"fp16": ()})
    trt = make_fake_tensorrt("8.6")
    job = job_for(
        onnx_model("fp16"), BuildOptions(ORIN), plan=tmp_path / "p", report=tmp_path / "r", compute_capability=""
    )
    _, facts = build_plan(trt, job, BuilderLog(), lambda *step: None)
    assert facts["fusion"]["compute_precisions"] == {"fp32": 3}


def test_tokens_run_where_tensorrt_has_64_bit_integers_and_are_refused_before(trt, cudart, text_model, tmp_path):
    model, table = text_model
    backend = backend_with(trt, cudart)
    engine = backend.build(model, tmp_path / "engine", BuildOptions(ORIN, batch=2, max_batch=4))
    tokens = np.array([[1, 5, 0], [2, 2, 9], [0, 0, 0], [9, 8, 7]], np.int64)
    if trt.__version__.startswith("8"):
        with pytest.raises(BuildError, match="tensor 'input' of the engine is .; inputs .* keep their type, int64"):
            backend.open(engine)
        return
    with backend.open(engine) as runner:
        np.testing.assert_allclose(runner.run(tokens), table[tokens].mean(axis=1) @ table[:4], rtol=1e-5)
        with pytest.raises(DataError, match="int64 token numbers, not float32"):
            runner.run(tokens.astype(np.float32))


def test_build_is_refused_when_the_precision_is_not_the_one_asked_for(trt_10_3, cudart, onnx_model, tmp_path):
    mislabelled = dataclasses.replace(onnx_model("fp32"), precision="fp16")
    with pytest.raises(BuildError, match=r"fp16 was asked for, but of 3 .* 3 in fp32"):
        backend_with(trt_10_3, cudart).build(mislabelled, tmp_path / "engine", BuildOptions(ORIN))
    assert not (tmp_path / "engine" / "model.engine").exists()


def test_parser_errors_are_listed_with_node_names_where_the_version_has_them(trt, cudart, onnx_model, tmp_path):
    def edit(proto):
        proto.graph.node[1].op_type = "Frobnicate"
        proto.graph.node[1].domain = "my.ops"
        proto.opset_import.append(onnx.helper.make_opsetid("my.ops", 1))

    where = "node 1: " if trt.__version__.startswith("8") else r"node 1 'node_relu0' \(Frobnicate\): "
    with pytest.raises(BuildError, match=where + "No importer registered for op: Frobnicate"):
        backend_with(trt, cudart).build(onnx_model("fp32", edit=edit), tmp_path / "engine", BuildOptions(ORIN))


def test_timing_cache_of_another_version_is_refused(trt_10_3, cudart, onnx_model, tmp_path):
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"of another version")
    with pytest.raises(BuildError, match="is of another GPU or TensorRT; delete it"):
        backend_with(trt_10_3, cudart).build(
            onnx_model("fp32"), tmp_path / "engine", BuildOptions(ORIN, timing_cache=cache)
        )
    assert cache.read_bytes() == b"of another version"


def test_open_refuses_other_versions_gpus_and_altered_plans(make_fake_tensorrt, trt_10_3, cudart, onnx_model, tmp_path):
    engine = backend_with(trt_10_3, cudart).build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(ORIN))
    other = make_fake_tensorrt("11.4")
    with pytest.raises(
        TargetError, match=f"built by TensorRT {trt_10_3.__version__}, this machine has {other.__version__}"
    ):
        backend_with(other, cudart).open(engine)
    with pytest.raises(
        TargetError, match="running this engine needs a GPU of sm_87 on this machine: this machine has sm_90"
    ):
        backend_with(trt_10_3, cudart, sms=(90,)).open(engine)
    Path(engine.file.path).write_bytes(b"altered")
    with pytest.raises(BuildError, match="changed after it was built"):
        backend_with(trt_10_3, cudart).open(engine)


def test_runner_frees_device_memory_when_it_cannot_be_made(trt_10_3, cudart, onnx_model, tmp_path):
    backend = backend_with(trt_10_3, cudart)
    engine = backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(ORIN))
    cudart.limit = 1
    with pytest.raises(BuildError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        backend.open(engine)
    assert cudart.live == {}
    assert cudart.streams == set()


def test_open_refuses_a_plan_whose_outputs_are_not_float32(trt_10_3, cudart, onnx_model, tmp_path):
    def edit(proto):
        proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    backend = backend_with(trt_10_3, cudart)
    engine = backend.build(onnx_model("fp32"), tmp_path / "engine", BuildOptions(ORIN))
    content = Path(engine.file.path).read_bytes()
    header, _, model = content.partition(b"\n")
    proto = onnx.load_from_string(model)
    edit(proto)
    Path(engine.file.path).write_bytes(header + b"\n" + proto.SerializeToString())
    with pytest.raises(BuildError, match="tensor 'logits' of the engine is .*keep their type, float32"):
        backend.open(dataclasses.replace(engine, file=FileRef.of(Path(engine.file.path))))
    Path(engine.file.path).write_bytes(b"no plan")
    with pytest.raises(BuildError, match="the runtime refused the engine: the plan has a wrong magic tag"):
        backend.open(dataclasses.replace(engine, file=FileRef.of(Path(engine.file.path))))
    assert cudart.streams == set()
    with pytest.raises(BuildError, match="'logits' is not float32"):
        backend.build(onnx_model("fp32", edit=edit), tmp_path / "half", BuildOptions(ORIN))


def test_build_for_another_gpu_than_this_machines_is_refused(trt_10_3, cudart, onnx_model, tmp_path):
    with pytest.raises(TargetError, match="building for jetson-orin needs a GPU of sm_87 on this machine: no driver"):
        TensorRt(lambda: trt_10_3, lambda: Gpus((), "no driver")).build(
            onnx_model("fp32"), tmp_path, BuildOptions(ORIN)
        )
    with pytest.raises(BuildError, match="unsigned activations"):
        backend_with(trt_10_3, cudart).build(onnx_model("int8-cpu"), tmp_path, BuildOptions(ORIN))


def test_rtx_engines_are_opened_by_the_same_runner(trt_10_3, cudart, onnx_model, images, tmp_path):
    def memory():
        return CudaPythonMemory(cudart)

    built = backend_with(trt_10_3, cudart).build(onnx_model("fp32"), tmp_path, BuildOptions(ORIN))
    engine = dataclasses.replace(built, backend="tensorrt_rtx")
    with TensorRtRtx(lambda: trt_10_3, lambda: Gpus((87,)), memory).open(engine) as runner:
        assert runner.run(images[:1]).shape == (1, 10)
        assert runner.provider == "tensorrt_rtx through cuda-python"
    with pytest.raises(PreconditionError, match=r"edgekd\[rtx\]"):
        TensorRtRtx(missing, lambda: Gpus((87,)), memory).open(engine)
    with pytest.raises(PreconditionError, match=r"edgekd\[trt\]"):
        TensorRt(missing, lambda: Gpus((87,)), memory).open(built)


def test_typing_without_strong_types_needs_the_flag_of_the_precision(make_fake_tensorrt):
    trt = make_fake_tensorrt("8.6")
    assert typing_of(trt, "int8") == Typing("weak", 1 << trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH, ("INT8",))
    trt.BuilderFlag = make_fake_tensorrt("11.4").BuilderFlag
    with pytest.raises(BuildRefused, match="has neither strong typing nor the flag FP16"):
        typing_of(trt, "fp16")
    new = make_fake_tensorrt("11.4")
    assert typing_of(new, "fp16") == Typing("strong", 1 << new.NetworkDefinitionCreationFlag.STRONGLY_TYPED, ())


def test_available_gives_the_first_reason(trt_10_3, onnx_model, tmp_path, monkeypatch):
    reason = TensorRt(missing).available()
    assert "pip install 'edgekd[trt]'" in reason
    assert "comes with JetPack" in reason
    with pytest.raises(PreconditionError, match=r"edgekd\[trt\]"):
        TensorRt(missing).build(onnx_model("fp32"), tmp_path, BuildOptions(ORIN))
    assert (
        TensorRt(lambda: trt_10_3, lambda: Gpus((), "no NVIDIA driver: gone")).available() == "no NVIDIA driver: gone"
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: missing())
    assert "cuda-python or pycuda" in TensorRt(lambda: trt_10_3, lambda: Gpus((87,))).available()


@pytest.mark.trt
def test_build_and_run_on_hardware(onnx_model, images, tmp_path):
    backend = BACKENDS["tensorrt"]
    reason = backend.available()
    if reason is not None:
        pytest.skip(reason)
    from edgekd.engine.cuda_driver import visible_gpus

    target = dataclasses.replace(ORIN, sm=visible_gpus().sms[0])
    model = onnx_model("fp16")
    engine = backend.build(model, tmp_path, BuildOptions(target, max_batch=8))
    (expected,) = ReferenceEvaluator(model.file.path).run(None, {"input": images})
    with backend.open(engine) as runner:
        np.testing.assert_allclose(runner.run(images), expected, atol=2e-2)
