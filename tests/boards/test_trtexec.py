"""Argument lists for every line of trtexec, from the options its help names."""

from types import SimpleNamespace

import pytest

from edgekd.boards.facts import Trtexec
from edgekd.boards.job import job_for
from edgekd.boards.options import BoardOptions
from edgekd.boards.trtexec import build_arguments, profile_arguments, times_arguments, timing_mode, typing_kind
from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.core.errors import ConfigError, TargetError
from edgekd.engine.portability import Portability

COMMON = ["onnx", "saveEngine", "loadEngine", "minShapes", "optShapes", "maxShapes", "shapes", "warmUp", "duration"]
COMMON += ["exportTimes", "exportProfile", "exportLayerInfo", "profilingVerbosity", "timingCacheFile"]
LINES = {
    "8.5": "fp16 int8 best calib buildOnly memPoolSize useCudaGraph useSpinWait noDataTransfers",
    "8.6": "fp16 int8 best calib skipInference memPoolSize useCudaGraph useSpinWait noDataTransfers",
    "10.3": "fp16 bf16 int8 fp8 best stronglyTyped skipInference memPoolSize useCudaGraph useSpinWait noDataTransfers",
    "11.4": "skipInference memPoolSize",
}


def tool(line: str) -> Trtexec:
    return Trtexec(("/t/trtexec",), line, frozenset([*COMMON, *LINES[line].split()]))


def model(precision: str = "fp16", *, batch: int = 1, name: str = "x") -> OnnxModel:
    return OnnxModel(FileRef("m.onnx", "0" * 64, 10), precision, "any", 17, name, (3, 8, 8), "y", batch)


@pytest.mark.parametrize(
    ("line", "precision", "flags"),
    [
        ("8.5", "fp32", ["--buildOnly"]),
        ("8.5", "fp16", ["--fp16", "--buildOnly"]),
        ("8.6", "int8", ["--int8", "--skipInference"]),
        ("10.3", "fp16", ["--stronglyTyped", "--skipInference"]),
        ("10.3", "int8", ["--stronglyTyped", "--skipInference"]),
        ("11.4", "int8", ["--skipInference"]),
    ],
)
def test_build_uses_the_flags_of_its_line_and_no_others(line, precision, flags) -> None:
    arguments = build_arguments(tool(line), model(precision), BoardOptions())
    assert [word for word in arguments[1:] if "=" not in word] == flags
    assert all(word.lstrip("-").partition("=")[0] in tool(line).options for word in arguments[1:])
    assert arguments[:3] == ["/t/trtexec", "--onnx=files/model.onnx", "--saveEngine=out/model.plan"]


def test_typing_is_strong_wherever_it_exists() -> None:
    assert [typing_kind(tool(line), BoardOptions()) for line in LINES] == ["weak", "weak", "strong", "strong"]


def test_times_are_taken_alike_on_every_line() -> None:
    for line in ("8.5", "8.6", "10.3"):
        arguments = times_arguments(tool(line), model(), BoardOptions(warm_up_ms=500, duration_s=7))
        assert {"--useCudaGraph", "--useSpinWait", "--noDataTransfers", "--warmUp=500", "--duration=7"} <= {*arguments}
        assert not any("Profile" in word or "saveEngine" in word for word in arguments)
    assert not any("CudaGraph" in word for word in times_arguments(tool("11.4"), model(), BoardOptions()))


def test_what_the_times_contain_is_what_was_asked_for_or_the_default_of_11() -> None:
    ours = {"cuda_graph": True, "spin_wait": True, "data_transfers": False}
    assert timing_mode(tool("10.3")) == {**ours, "is_by_default": False}
    assert timing_mode(tool("11.4")) == {**ours, "is_by_default": True}
    python = Trtexec(("python3", "x"), "10.3", frozenset(COMMON), is_python=True)
    assert timing_mode(python) == {**ours, "cuda_graph": False, "spin_wait": False, "is_by_default": True}


def test_layer_times_are_demanded_only_of_a_tool_that_exports_them() -> None:
    facts = SimpleNamespace(identity={}, timing_key="k", raw={"tegrastats": None})
    known = tool("10.3")
    lacking = Trtexec(known.command, known.version, known.options - {"exportProfile"})
    steps = [job_for(model(), facts, each, BoardOptions()).document["steps"][2] for each in (known, lacking)]
    assert [step["required"] for step in steps] == [["profile.json"], []]


def test_layer_times_are_a_run_of_their_own() -> None:
    arguments = profile_arguments(tool("10.3"), model(), BoardOptions())
    assert "--exportProfile=out/profile.json" in arguments
    assert not any("exportTimes" in word or "CudaGraph" in word for word in arguments)


def test_dynamic_batch_has_its_three_shapes_and_a_fixed_one_none() -> None:
    options = BoardOptions(batch=4, max_batch=8)
    words = build_arguments(tool("10.3"), model(batch=0), options)
    assert {"--minShapes=x:1x3x8x8", "--optShapes=x:4x3x8x8", "--maxShapes=x:8x3x8x8"} <= {*words}
    assert "--shapes=x:4x3x8x8" in times_arguments(tool("10.3"), model(batch=0), options)
    assert not any("hapes" in word for word in build_arguments(tool("10.3"), model(), options))


def test_names_with_colons_are_quoted_and_impossible_ones_refused() -> None:
    words = build_arguments(tool("10.3"), model(batch=0, name="in:0"), BoardOptions())
    assert "--optShapes='in:0':1x3x8x8" in words
    with pytest.raises(ConfigError, match="another name"):
        build_arguments(tool("10.3"), model(batch=0, name="a,b"), BoardOptions())


def test_workspace_is_limited_or_the_reason_given() -> None:
    assert "--memPoolSize=workspace:512" in build_arguments(tool("8.5"), model(), BoardOptions(workspace_mb=512))
    old = Trtexec(("/t/trtexec",), "8.5", tool("8.5").options - {"memPoolSize"})
    with pytest.raises(TargetError, match="knows none of --memPoolSize"):
        build_arguments(old, model(), BoardOptions(workspace_mb=512))


def test_level_and_portability_are_asked_of_tools_that_know_them() -> None:
    known = tool("10.3")
    more = {"builderOptimizationLevel", "versionCompatible", "hardwareCompatibilityLevel"}
    able = Trtexec(known.command, known.version, known.options | more)
    options = BoardOptions(optimization_level=4, portability=Portability(True, "same-sm"))
    wanted = {
        "--builderOptimizationLevel=4",
        "--versionCompatible",
        "--hardwareCompatibilityLevel=sameComputeCapability",
    }
    assert wanted <= {*build_arguments(able, model(), options)}
    assert "--versionCompatible" in times_arguments(able, model(), options)
    assert not wanted & {
        *build_arguments(able, model(), BoardOptions()),
        *times_arguments(able, model(), BoardOptions()),
    }
    with pytest.raises(TargetError, match="knows none of --builderOptimizationLevel"):
        build_arguments(known, model(), BoardOptions(optimization_level=4))
    with pytest.raises(TargetError, match="knows none of --versionCompatible"):
        build_arguments(known, model(), BoardOptions(portability=Portability(version=True)))
    with pytest.raises(ConfigError, match="optimization_level is 9"):
        BoardOptions(optimization_level=9)


def test_options_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ConfigError, match=r"duration_s is 0.*max_batch is 2, less than batch 4"):
        BoardOptions(duration_s=0, batch=4, max_batch=2)
