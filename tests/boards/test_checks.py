"""Boards that do not fit are refused, with every reason at once."""

import asyncio
import dataclasses
import json

import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.boards.checks import require_fit, types_in, warnings_of
from edgekd.boards.facts import facts_from_json
from edgekd.boards.options import BoardOptions, Patience
from edgekd.boards.remote import Board
from edgekd.core.artifacts import FileRef
from edgekd.core.errors import BuildError, DataError, TargetError
from edgekd.core.events import silent
from edgekd.engine.portability import Portability
from edgekd.targets import get_target
from edgekd.targets.ssh_connection import Address

OPTIONS = ["onnx", "saveEngine", "loadEngine", "exportTimes"]
MIB = 1 << 20


def document(**changes):
    return {
        "hostname": "board",
        "machine": "aarch64",
        "model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        "chip": "tegra234",
        "l4t": "36.4.3",
        "cuda": "12.6",
        "packages": {},
        "gpu": {"error": "no driver"},
        "tensorrt_python": {"error": "none"},
        "trtexec": {"path": "/t", "version": "10.3.0", "options": OPTIONS},
        "tegrastats": None,
        "power": {"query": None, "status": None, "conf": None},
        "clocks_mhz": {"17000000.gpu": {"low": 306.0, "high": 918.0, "now": 918.0}},
        "memory": {"total_bytes": 15_700 * MIB, "available_bytes": 9000 * MIB, "swap_free_bytes": 0},
        "disk": {"total_bytes": 1 << 40, "free_bytes": 1 << 39},
        **changes,
    }


def refusal(net, options=None, /, **changes) -> str:
    with pytest.raises(TargetError) as error:
        require_fit(net, facts_from_json(document(**changes)), options or BoardOptions(), "it")
    return str(error.value)


def test_board_that_fits_is_taken(make_model) -> None:
    require_fit(make_model(), facts_from_json(document()), BoardOptions(), "it")


def test_architecture_is_that_of_the_chip_when_the_driver_is_silent() -> None:
    chips = {"tegra194": 72, "tegra234": 87, "tegra264": 110, "tegra999": None, None: None}
    assert {chip: facts_from_json(document(chip=chip)).sm for chip in chips} == chips


def test_version_comes_from_trtexec_then_python_then_packages() -> None:
    python, package = {"text": "8.6.2.3\n"}, {"libnvinfer8": "8.5.2-1+cuda11.4"}
    assert facts_from_json(document(tensorrt_python=python, packages=package)).tensorrt == "10.3.0"
    assert facts_from_json(document(trtexec=None, tensorrt_python=python, packages=package)).tensorrt == "8.6.2"
    assert facts_from_json(document(trtexec=None, packages=package)).tensorrt == "8.5.2"


def test_power_mode_comes_from_the_boards_files_when_only_root_may_ask() -> None:
    conf = "< POWER_MODEL ID=0 NAME=MAXN >\nGPU MAX_FREQ -1\n< POWER_MODEL ID=2 NAME=15W >\nGPU MAX_FREQ 612000000\n"
    assert facts_from_json(document(power={"query": None, "status": "pmode:0002", "conf": conf})).power_mode == "15W"


def test_power_mode_that_cannot_be_read_forbids_nothing() -> None:
    nonsense = {"query": "what?", "status": "pmode:0002", "conf": "nothing of use"}
    assert facts_from_json(document(power=nonsense)).power_mode is None


def test_answer_that_is_none_is_said_so() -> None:
    with pytest.raises(DataError, match="cannot be read: KeyError"):
        facts_from_json({"gpu": {}})


def test_identity_leaves_out_what_changes_by_itself() -> None:
    one, other = (facts_from_json(document(disk={"total_bytes": 1, "free_bytes": free})) for free in (1, 2))
    assert one.identity == other.identity
    assert json.dumps(one.identity)
    assert facts_from_json(document(cuda="12.2")).timing_key != one.timing_key


def test_all_reasons_are_given_at_once(make_model) -> None:
    memory = {"total_bytes": 8000 * MIB, "available_bytes": 100 * MIB, "swap_free_bytes": 50 * MIB}
    target = BoardOptions(target=get_target("jetson-orin-nx-16gb"))
    words = refusal(make_model(), target, memory=memory, disk={"total_bytes": 1, "free_bytes": 1}, trtexec=None)
    for reason in (
        "wrong device: jetson-orin-nx-16gb has 16 GB",
        "neither trtexec",
        "150 MiB free",
        "not enough disk",
    ):
        assert reason in words


def test_swap_counts_as_memory_and_workspace_is_needed_too(make_model) -> None:
    memory = {"total_bytes": 15_700 * MIB, "available_bytes": 500 * MIB, "swap_free_bytes": 400 * MIB}
    require_fit(make_model(), facts_from_json(document(memory=memory)), BoardOptions(), "it")
    assert "not enough memory" in refusal(make_model(), BoardOptions(workspace_mb=512), memory=memory)


def test_desktop_that_is_no_jetson_is_another_device(make_model) -> None:
    gpu = "name=L4\nmemory_bytes=24000000000\nsm=87\nsms=8\nclock_khz=1\nl2_bytes=1\nintegrated=0\nmemory_khz=1\n"
    options = BoardOptions(target=get_target("jetson-orin-nx-16gb"))
    assert "is a Jetson, this is not" in refusal(make_model(), options, l4t=None, gpu={"text": f"{gpu}bus_bits=1\n"})


def test_trtexec_that_lacks_what_is_needed_is_refused(make_model) -> None:
    trtexec = {"path": "/t", "version": "10.3.0", "options": OPTIONS[:-1]}
    assert "/t does not know --exportTimes" in refusal(make_model(), trtexec=trtexec)


def test_weights_in_other_files_are_refused(make_model, tmp_path) -> None:
    proto = onnx.load(make_model().file.path)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = dataclasses.replace(make_model(), file=FileRef.of(tmp_path / "m.onnx"))
    assert "keeps weights in other files" in refusal(model)


def test_computer_without_a_gpu_is_refused(make_model) -> None:
    assert "no CUDA GPU: the driver does not answer (no driver)" in refusal(make_model(), chip=None)


def test_unsigned_int8_is_refused(make_model) -> None:
    assert "unsigned activations" in refusal(make_model(precision="int8", flavour="cpu"))


@pytest.mark.parametrize(
    ("kind", "chip", "version", "words"),
    [
        (TensorProto.BFLOAT16, "tegra234", "8.6.2", "bf16, which needs TensorRT 9"),
        (TensorProto.BFLOAT16, "tegra194", "10.3.0", "bf16, which needs"),
        (TensorProto.FLOAT8E4M3FN, "tegra234", "10.3.0", "fp8, which needs TensorRT 9 and sm_89"),
        (TensorProto.INT8, "tegra210", "8.5.2", "sm_53 computes no int8"),
    ],
)
def test_types_that_the_board_does_not_have_are_named(make_model, tmp_path, kind, chip, version, words) -> None:
    from edgekd.boards import checks

    model = make_model()
    proto = onnx.load(model.file.path)
    proto.graph.node.append(helper.make_node("Cast", ["y"], ["z"], to=kind))
    trtexec = {"path": "/t", "version": version, "options": OPTIONS}
    facts = facts_from_json(document(chip=chip, trtexec=trtexec))
    assert any(words in problem for problem in checks._precision(model, proto, facts))
    fitting = facts_from_json(document(chip="tegra264", trtexec={**trtexec, "version": "10.13.0"}))
    assert list(checks._precision(model, proto, fitting)) == []


def test_types_are_found_in_weights_values_casts_and_constants() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.FLOAT16, [1], [1.0]))
    graph = helper.make_graph(
        [constant, helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT8)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [1])],
        [helper.make_tensor("w", TensorProto.INT64, [1], [1])],
    )
    assert types_in(helper.make_model(graph)) == {"FLOAT16", "INT8", "FLOAT", "INT64"}


def test_warnings_name_mode_clock_and_missing_tegrastats() -> None:
    conf = "< POWER_MODEL ID=2 NAME=15W >\nGPU MAX_FREQ 612000000\n"
    facts = facts_from_json(document(power={"query": None, "status": "pmode:0002", "conf": conf}))
    words = " ".join(warnings_of(facts, BoardOptions(target=get_target("jetson-orin-nx-16gb"))))
    assert "power mode 15W" in words
    assert "jetson_clocks" in words
    assert "no tegrastats" in words
    fixed = document(clocks_mhz={"17000000.gpu": {"low": 918.0, "high": 918.0}}, tegrastats="/usr/bin/tegrastats")
    assert warnings_of(facts_from_json(fixed), BoardOptions()) == ()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", "", "a/b"])
def test_results_are_never_written_outside_their_folder(tmp_path, name) -> None:
    """The names come from the board."""
    folder = tmp_path / "results"
    folder.mkdir()
    board = Board(Address("host", "user"), None, Patience(), silent)
    with pytest.raises(BuildError, match="no plain file name"):
        asyncio.run(board.read("0" * 64, [("out", "model.plan"), ("out", name)], folder))
    assert list(tmp_path.iterdir()) == [folder] and not list(folder.iterdir())


def test_hardware_compatibility_is_refused_on_a_jetson(make_model) -> None:
    said = refusal(make_model(), BoardOptions(portability=Portability(hardware="ampere+")))
    assert "hardware compatibility ampere+ is for desktop GPUs, not for Jetson" in said
