"""Deep-learning accelerators: asked for as each TensorRT wants it, refused where there are none, reported as logs say.

The logs are written by hand after published ones of TensorRT 8.5 and 8.6; none was recorded here.
"""

import dataclasses
import json

import pytest
from onnx import TensorProto

from edgekd.boards import BoardOptions
from edgekd.boards.dla import Fallback, Placement, marked, placement_from_log, require_used, words_of
from edgekd.boards.facts import facts_from_json
from edgekd.boards.trtexec import build_arguments, profile_arguments, times_arguments, typing_kind
from edgekd.core.errors import BuildError, ConfigError
from edgekd.engine.fusion import FusedLayer, FusedTensor, FusionReport, require_precision
from edgekd.latency.measurements import read_measurements
from edgekd.targets import get_target
from tests.boards.test_checks import OPTIONS, document, refusal
from tests.boards.test_python_trt import pooled_net, python_board
from tests.boards.test_trtexec import model, tool

__all__ = ["python_board"]

UNSUPPORTED = "Unsupported on DLA. Switching this layer's device type to GPU."
LOG = f"""\
[W] [TRT] /head/Concat_2: DLA only supports concatenation on the C dimension.
[W] [TRT] Layer '/head/Concat_2' (CONCATENATION): {UNSUPPORTED}
[W] [TRT] Layer '(Unnamed Layer* 277) [Shuffle]' (SHUFFLE): {UNSUPPORTED}
[W] [TRT] Validation failed for DLA layer: /attn/Reshape. Switching to GPU fallback.
[W] [TRT] DLA supports only 16 subgraphs per DLA core. Switching to GPU for layer conv_6
[I] [TRT] ---------- Layers Running on DLA ----------
[I] [TRT] [DlaLayer] {{ForeignNode[/cnn/cnn.0/Conv.../cnn/cnn.11/Relu]}}
[I] [TRT] [DlaLayer] {{ForeignNode[/linear/Gemm]}}
[I] [TRT] ---------- Layers Running on GPU ----------
[I] [TRT] [GpuLayer] POOLING: /pool/GlobalAveragePool
[I] [TRT] [GpuLayer] COPY: input.12 copy
[I] [TRT] [GpuLayer] /model/conv1/Conv + /model/relu/Relu
[I] [TRT] [MemUsageChange] TensorRT-managed allocation in building engine: CPU +0, GPU +0
"""
FIRST, LAST = "{ForeignNode[/cnn/cnn.0/Conv.../cnn/cnn.11/Relu]}", "{ForeignNode[/linear/Gemm]}"


def test_the_log_tells_what_runs_where_and_why() -> None:
    placement = placement_from_log(LOG)
    assert placement.on_dla == (FIRST, LAST)
    assert placement.on_gpu == ("/pool/GlobalAveragePool", "/model/conv1/Conv + /model/relu/Relu")
    assert placement.fallbacks == (
        Fallback("/head/Concat_2", "CONCATENATION", "DLA only supports concatenation on the C dimension"),
        Fallback("(Unnamed Layer* 277) [Shuffle]", "SHUFFLE", ""),
        Fallback("/attn/Reshape", "", ""),
        Fallback("conv_6", "", ""),
    )


def test_the_log_of_the_python_module_is_read_alike() -> None:
    lines = (line.replace("[W] [TRT]", "WARNING |").replace("[I] [TRT]", "INFO |") for line in LOG.splitlines())
    assert placement_from_log("\n".join(lines)) == placement_from_log(LOG)


def test_changes_of_device_are_counted_without_the_copies_between() -> None:
    placement = placement_from_log(LOG)
    order = [
        "input to nvm",
        FIRST,
        "x from nvm",
        "Reformatting CopyNode for x",
        "/pool",
        "y to nvm",
        LAST,
        "z copy finish",
    ]
    assert placement.moves(order) == 2
    assert placement.moves([FIRST, LAST]) == 0
    assert placement.moves(["/pool", FIRST]) == 1
    assert placement.moves(["subgraph 1", "/pool"]) is None


def test_an_engine_that_the_dla_has_no_part_in_is_refused_with_reasons() -> None:
    on_gpu = "\n".join(line for line in LOG.splitlines() if "[DlaLayer]" not in line)
    with pytest.raises(BuildError, match=r"no layer .* runs on the DLA \(/head/Concat_2 \(CONCATENATION\): DLA only"):
        require_used(placement_from_log(on_gpu))
    with pytest.raises(BuildError, match="the log gives no reason"):
        require_used(placement_from_log(""))
    require_used(placement_from_log(LOG))


def test_words_name_the_first_layers_that_fell_back() -> None:
    found = {"core": 1, "gpu_fallback": True, **placement_from_log(LOG).document(), "moves": 2}
    assert words_of(found) == (
        "DLA core 1: 2 subgraphs there, 2 layers on the GPU, 2 changes between them; not on the DLA: /head/Concat_2 "
        "(CONCATENATION): DLA only supports concatenation on the C dimension; (Unnamed Layer* 277) [Shuffle] (SHUFFLE)"
        "; /attn/Reshape and 1 more"
    )
    json.dumps(found)


def test_subgraphs_of_the_dla_count_as_computation_of_their_type() -> None:
    def layer(name, *dtypes):
        return FusedLayer(name, "Myelin", tuple(FusedTensor("x", (1,), dtype) for dtype in dtypes), (), ())

    def checked(precision, *layers):
        require_precision(marked(FusionReport(layers), Placement((FIRST,), (), ())), precision)

    checked("fp16", layer(FIRST, "fp16"), layer("/pool", "fp32"))
    checked("fp16", layer(FIRST), layer("/pool", "fp32"))  # the inspector lists no tensors: fp16 is all there is
    with pytest.raises(BuildError, match="int8 was asked for"):
        checked("int8", layer(FIRST))
    with pytest.raises(BuildError, match="1 in fp32"):
        checked("fp16", layer(FIRST, "fp32"))
    with pytest.raises(BuildError, match="listed no convolution"):
        checked("fp16", layer("another", "fp16"))


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("8.5", ["--fp16", "--useDLACore=1", "--allowGPUFallback", "--buildOnly"]),
        ("10.3", ["--fp16", "--useDLACore=1", "--allowGPUFallback", "--skipInference"]),
        ("11.4", ["--useDLACore=1", "--allowGPUFallback", "--skipInference"]),
    ],
)
def test_every_line_is_told_of_the_core_and_the_older_ones_of_the_precision(line, flags) -> None:
    options = BoardOptions(dla_core=1)
    words = build_arguments(tool(line), model(), options)
    assert [word for word in words[1:] if "=" not in word or "DLA" in word] == flags
    assert typing_kind(tool(line), options) == ("strong" if line == "11.4" else "weak")
    for arguments in (times_arguments, profile_arguments):
        assert "--useDLACore=1" in arguments(tool(line), model(), options)
    alone = build_arguments(tool(line), model(), BoardOptions(dla_core=1, gpu_fallback=False))
    assert "--allowGPUFallback" not in alone


def test_one_batch_size_is_built() -> None:
    options = BoardOptions(batch=4, dla_core=0)
    words = build_arguments(tool("10.3"), model(batch=0), options)
    assert {f"--{name}Shapes=x:4x3x8x8" for name in ("min", "opt", "max")} <= {*words}
    with pytest.raises(ConfigError, match=r"one batch size: batch is 4, max_batch 8"):
        BoardOptions(batch=4, max_batch=8, dla_core=0)
    with pytest.raises(ConfigError, match="nothing to fall back from"):
        BoardOptions(gpu_fallback=False)
    with pytest.raises(ConfigError, match="dla_core is -1"):
        BoardOptions(dla_core=-1)


def _tool(**changes) -> dict:
    return {"path": "/t", "version": "10.3.0", "options": [*OPTIONS, "useDLACore"], **changes}


def _fp16(make_model):
    return make_model(precision="fp16")


def test_boards_without_a_dla_are_told_so(make_model) -> None:
    net, dla = _fp16(make_model), BoardOptions(dla_core=0)
    assert "has no DLA (Xavier" in refusal(net, dla, chip="tegra264", trtexec=_tool())
    assert "has no DLA (Xavier" in refusal(net, dla, model="NVIDIA Jetson Orin Nano Developer Kit", trtexec=_tool())
    second = BoardOptions(dla_core=2, target=get_target("jetson-orin-nx-16gb"))
    assert "no DLA core 2: there are 2" in refusal(net, second, trtexec=_tool())
    assert "does not know --useDLACore" in refusal(net, dla)


@pytest.mark.parametrize("version", ["10.8.0", "10.16.2", "11.0.0", "11.4.0"])
def test_versions_between_the_two_that_know_dla_are_refused(make_model, version) -> None:
    said = refusal(_fp16(make_model), BoardOptions(dla_core=0), trtexec=_tool(version=version))
    assert f"TensorRT {version} has no DLA: 10.7 was the last before 11.4.1" in said


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0", "10.7.0", "11.4.1"])
def test_versions_that_know_dla_are_taken(make_model, version) -> None:
    from edgekd.boards.checks import require_fit

    facts = facts_from_json(document(trtexec=_tool(version=version)))
    require_fit(_fp16(make_model), facts, BoardOptions(dla_core=1), "it")


def test_precisions_that_a_dla_lacks_are_refused(make_model) -> None:
    dla = BoardOptions(dla_core=0)
    assert "computes in fp16 or int8, the model is fp32" in refusal(make_model(), dla, trtexec=_tool())
    quantised = dataclasses.replace(_fp16(make_model), precision="int8")
    assert "takes no Q/DQ: build fp16" in refusal(quantised, dla, trtexec=_tool())


def test_a_board_builds_for_its_dla_and_says_what_fell_back(bench, make_model, tmp_path) -> None:
    order = ["input to nvm", FIRST, "/pool/GlobalAveragePool", LAST]
    bench.board.behave(layer_type="FP16", dla_log=LOG, layer_names=order)
    result = bench.build(_fp16(make_model), tmp_path / "out", BoardOptions(dla_core=1, duration_s=1, profile_s=1))
    assert result.error is None, result.error
    dla = result.engine.facts["dla"]
    assert (dla["core"], dla["gpu_fallback"], dla["on_dla"], dla["moves"]) == (1, True, (FIRST, LAST), 2)
    assert [each["layer"] for each in dla["fallbacks"]][:1] == ["/head/Concat_2"]
    assert result.engine.facts["typing"] == "weak"
    assert any("--useDLACore=1" in words for words in bench.board.calls("--exportTimes"))
    sidecar = json.loads((tmp_path / "out" / "board" / "build.json").read_text())
    assert sidecar["facts"]["dla"]["on_dla"] == [FIRST, LAST]
    measured = json.loads((tmp_path / "out" / "board" / "measured.json").read_text())
    assert measured["latency"]["conditions"]["dla_core"] == 1


def test_a_board_that_used_its_gpu_alone_is_a_failure_that_keeps_its_logs(bench, make_model, tmp_path) -> None:
    bench.board.behave(layer_type="FP16", dla_log=LOG.replace("[DlaLayer]", "[GpuLayer]"))
    result = bench.build(_fp16(make_model), tmp_path / "out", BoardOptions(dla_core=0, duration_s=1, profile_s=1))
    assert "no layer of the network runs on the DLA" in str(result.error)
    folder = tmp_path / "out" / "board"
    assert "Unsupported on DLA" in (folder / "build.log").read_text() and not (folder / "model.plan").exists()


def test_the_python_of_a_board_uses_its_dla(python_board, tmp_path, monkeypatch) -> None:
    python_board.set_version("10.3")
    login = python_board.folder / "login"
    login.write_text(login.read_text().replace("export PYTHONPATH", "export EDGEKD_TEST_FAKE_DLA_CORES=2 PYTHONPATH"))
    net = pooled_net(tmp_path / "net.onnx", kind=TensorProto.FLOAT16)
    how = {"duration_s": 1, "profile_s": 1, "warm_up_ms": 100}
    result = python_board.build(net, tmp_path / "out", BoardOptions(dla_core=1, **how))
    assert result.error is None, result.error
    facts = result.engine.facts
    assert facts["dla"]["on_dla"] == ("{ForeignNode[Conv_0]}",) and facts["typing"] == "weak"
    assert {each["kind"] for each in facts["dla"]["fallbacks"]} == {"CAST", "GLOBALAVERAGEPOOL", "FLATTEN"}
    alone = python_board.build(net, tmp_path / "alone", BoardOptions(dla_core=1, gpu_fallback=False, **how))
    assert "GPU fallback is not enabled" in str(alone.error)
    third = python_board.build(net, tmp_path / "third", BoardOptions(dla_core=2, **how))
    assert "no DLA core 2: TensorRT finds 2" in str(third.error)


def test_times_of_a_dla_do_not_teach_what_a_gpu_takes(tmp_path) -> None:
    target = get_target("jetson-orin-nx-16gb")
    report = {"kind": "measured", "target": target.name, "precision": "fp16", "p50_ms": 1.5}
    for name, conditions in (("gpu", {"batch": 1}), ("dla", {"batch": 1, "dla_core": 0})):
        document = {"model": f"{name}.onnx", "latency": {**report, "conditions": conditions}}
        (tmp_path / f"{name}.onnx").write_bytes(b"")
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert [each.model.name for each in read_measurements(tmp_path, target)] == ["gpu.onnx"]
