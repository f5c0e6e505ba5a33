"""`edgekd build --device` and `--targets`: what is printed, and what the command ends with."""

import json

import pytest
from typer.testing import CliRunner

from edgekd.cli.main import app
from edgekd.targets.addresses import keep_address
from edgekd.targets.board import document_of, save_board
from edgekd.targets.catalogue import boards_folder, get_target

TARGET = "jetson-orin-nx-16gb"


@pytest.fixture
def edgekd(bench, monkeypatch, tmp_path):
    """Run `edgekd` in this process with the keys of the bench."""
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    keys = ("--known-hosts", bench.keys.known_hosts, "--identity", bench.keys.identity)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in (*words, *keys)])


def test_device_gives_a_table_a_document_and_progress(edgekd, bench, make_model, tmp_path) -> None:
    model = make_model()
    words = ("build", model.file.path, "--device", bench.address, "--target", TARGET, "--out", tmp_path / "out")
    planned = edgekd(*words, "--dry-run")
    assert (planned.exit_code, "would build on NVIDIA Jetson Orin NX" in planned.stdout) == (0, True), planned.output
    assert not (tmp_path / "out").exists()
    result = edgekd(*words, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (board,) = document["boards"]
    assert (document["schema_version"], board["status"], board["engine"]["target"]) == (1, "done", "sm_87")
    assert board["folder"] == str(tmp_path / "out" / f"127.0.0.1-{bench.wire.port}")
    assert (board["board"]["tensorrt"], board["board"]["power_mode"]) == ("10.3.0", "MAXN")
    assert "start" in result.stderr
    assert "engine built and measured" in result.stderr
    table = edgekd(*words)
    assert table.exit_code == 0, table.output
    assert "10.3.0" in table.stdout
    assert "warning: the GPU clock is not held" in table.stdout


def test_failures_share_their_exit_code_or_end_with_1(edgekd, bench, make_model, tmp_path) -> None:
    bench.board.behave(build="crash")
    words = ("build", make_model().file.path, "-o", tmp_path / "out", "--json")
    wrong = edgekd(*words, "--device", bench.address, "--target", "jetson-xavier-nx")
    assert wrong.exit_code == 4
    assert json.loads(wrong.stdout)["boards"][0]["error"]["exit_code"] == 4
    both = edgekd(*words, "--device", bench.address, "--device", "127.0.0.1:1")
    boards = json.loads(both.stdout)["boards"]
    assert (both.exit_code, [board["error"]["type"] for board in boards]) == (1, ["BuildError", "Unreachable"])
    assert edgekd(*words, "--device", "127.0.0.1:1").exit_code == 4


def test_targets_name_boards_of_ones_own(edgekd, bench, make_model, tmp_path) -> None:
    for name in ("my-nx", "my-xavier"):
        resembles = TARGET if name == "my-nx" else "jetson-xavier-nx"
        save_board(boards_folder() / f"{name}.yaml", document_of(get_target(resembles), name))
    keep_address("my-nx", bench.address)
    words = ("build", make_model().file.path, "-o", tmp_path / "out", "--json")
    unknown = edgekd(*words, "--targets", "my-nx,my-xavier")
    assert unknown.exit_code == 2
    assert "no address is known for the board 'my-xavier'" in unknown.stderr
    result = edgekd(*words, "--targets", f"my-nx,my-xavier={bench.address}")
    boards = json.loads(result.stdout)["boards"]
    assert [(board["name"], board["status"]) for board in boards] == [("my-nx", "done"), ("my-xavier", "failed")]
    assert "wrong device" in boards[1]["error"]["message"]
    assert (tmp_path / "out" / "my-nx" / "model.plan").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--device", "a@b", "--device", "a@b"), "named twice"),
        (("--device", "a b"), "write it as user@host"),
        (("--device", "a@b", "--backend", "onnxruntime"), "boards build with their own TensorRT"),
        (("--device", "a@b", "--target", "jetson-orinn"), "did you mean"),
        (("--targets", f"{TARGET}=a@b", "--target", TARGET), "boards of --targets say so themselves"),
        (("--targets", ","), "names no board"),
        (("--hardware", "turing"), "is none of none, ampere+, same-sm"),
        (("--optimization-level", "4"), "onnxruntime has neither"),
        (("--dla", "0"), "name the board with --device or --targets"),
        (("--no-gpu-fallback",), "name the board with --device or --targets"),
        (("--device", "a@b", "--no-gpu-fallback"), "nothing to fall back from"),
    ],
)
def test_wrong_request_is_one_message(make_model, tmp_path, words, says) -> None:
    result = CliRunner().invoke(app, ["build", make_model().file.path, "-o", str(tmp_path / "out"), *words])
    assert (result.exit_code, says in result.stderr) == (2, True), result.output
