"""What goes wrong with boards: drops, restarts, full disks, wrong keys, wrong software, builders that die."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgekd.boards import BoardOptions, Patience, checks, remote
from edgekd.core.errors import BuildError, ConfigError, TargetError
from edgekd.targets import get_target
from edgekd.targets.ssh_connection import Unreachable
from tests.boards.conftest import wait_for

MIB = 1 << 20


def test_upload_goes_on_where_a_drop_stopped_it(bench, make_model, tmp_path) -> None:
    model = make_model(size_bytes=8 * MIB)
    bench.wire.cut_after_bytes = 5 * MIB
    result = bench.build(model, tmp_path)
    assert result.error is None, result.error
    assert bench.wire.cuts == 1
    assert "no connection" in bench.said
    assert bench.wire.bytes_sent < 12 * MIB  # from the start again it would be 13


def test_download_goes_on_where_a_drop_stopped_it(bench, make_model, tmp_path) -> None:
    bench.board.behave(plan_bytes=8 * MIB)
    bench.wire.cut_after_bytes_back = 5 * MIB
    result = bench.build(make_model(), tmp_path)
    assert result.error is None, result.error
    assert bench.wire.cuts == 1
    assert result.engine.file.size_bytes > 8 * MIB
    assert bench.wire.bytes_back < 12 * MIB  # from the start again it would be 13


def test_what_the_disk_here_does_not_hold_is_not_fetched(bench, make_model, tmp_path, monkeypatch) -> None:
    bench.board.behave(plan_bytes=32 * MIB)
    free = shutil.disk_usage(tmp_path)._replace(free=remote._SPARE_BYTES + 4 * MIB)
    with monkeypatch.context() as patch:  # room for the small files, not for the engine
        patch.setattr(remote.shutil, "disk_usage", lambda path: free)
        result = bench.build(make_model(), tmp_path)
    assert "bytes of model.plan to send" in str(result.error) and "make room" in str(result.error)
    assert bench.wire.bytes_back < 16 * MIB  # what is on its way when reading ends is a few
    assert bench.build(make_model(), tmp_path).error is None
    assert len(bench.board.calls("--onnx")) == 1


def test_result_that_was_damaged_is_never_taken(bench, make_model, tmp_path) -> None:
    model = make_model()
    assert bench.build(model, tmp_path / "a").error is None
    (bench.board.jobs()[0] / "out" / "times.json").write_text("[]")
    result = bench.build(model, tmp_path / "b")
    assert "times.json is not what the board wrote down" in str(result.error)
    assert not (tmp_path / "b" / "board" / "model.plan").exists()


def test_build_goes_on_without_its_host_and_is_found_again(bench, make_model, tmp_path) -> None:
    bench.board.behave(build=3)
    bench.when("build goes on", bench.wire.cut)
    result = bench.build(make_model(), tmp_path)
    assert result.error is None, result.error
    assert (bench.wire.cuts, len(bench.board.calls("--onnx"))) == (1, 1)
    assert "connected again" in bench.said


def test_same_command_joins_a_job_whose_host_gave_up(bench, make_model, tmp_path) -> None:
    bench.board.behave(build=5)

    def go_down() -> None:
        bench.wire.is_down = True
        bench.wire.cut()

    bench.when("build goes on", go_down)
    hasty = Patience(give_up_s=0.5, first_wait_s=0.1, longest_wait_s=0.2, poll_s=0.1)
    first = bench.build(make_model(), tmp_path, patience=hasty)
    assert isinstance(first.error, Unreachable)
    assert "a job that runs there goes on" in str(first.error)
    bench.wire.is_down = False
    second = bench.build(make_model(), tmp_path)
    assert second.error is None, second.error
    assert "joins the job that is there" in bench.said
    assert len(bench.board.calls("--onnx")) == 1


def test_finished_job_is_fetched_again_and_not_built_again(bench, make_model, tmp_path) -> None:
    model = make_model()
    first = bench.build(model, tmp_path / "a")
    calls = len(bench.board.calls())
    second = bench.build(model, tmp_path / "b")
    third = bench.build(model, tmp_path / "b")
    assert first.engine.digest == second.engine.digest == third.engine.digest
    assert "this engine is here already" in bench.said
    assert len(bench.board.calls()) == calls == 3
    other = bench.build(model, tmp_path / "c", BoardOptions(duration_s=2))
    assert other.error is None
    assert len(bench.board.calls()) == 6


def test_result_of_another_job_is_kept_unless_forced(bench, make_model, tmp_path) -> None:
    bench.build(make_model(), tmp_path)
    before = (tmp_path / "board" / "build.json").read_text()
    other = make_model(size_bytes=10)
    refused = bench.build(other, tmp_path)
    assert isinstance(refused.error, ConfigError)
    assert (tmp_path / "board" / "build.json").read_text() == before
    assert bench.build(other, tmp_path, is_forced=True).error is None
    assert (tmp_path / "board" / "build.json").read_text() != before
    assert [path.name for path in tmp_path.iterdir()] == ["board"]


@pytest.mark.parametrize(("step", "builds"), [("build", 2), ("times", 1)])
def test_job_goes_on_after_the_board_was_restarted(bench, make_model, tmp_path, step, builds) -> None:
    bench.board.behave(**{step: 60})

    def restart() -> None:
        bench.board.behave()
        bench.board.reboot()
        bench.wire.cut()

    bench.when(f"{step} goes on", restart)
    result = bench.build(make_model(), tmp_path)
    assert result.error is None, result.error
    assert "the board was restarted while" in bench.said
    assert json.loads((tmp_path / "board" / "state.json").read_text())["attempt"] == 2
    assert len(bench.board.calls("--onnx")) == builds


@pytest.mark.parametrize("how", [60, "fork"])
def test_runner_that_was_killed_is_noticed_and_leaves_nothing_running(bench, make_model, tmp_path, how) -> None:
    bench.board.behave(build=how)

    def kill_runner() -> None:
        state = json.loads((bench.board.jobs()[0] / "state.json").read_text())
        os.kill(state["pid"], signal.SIGKILL)

    bench.when("Start parsing" if how == "fork" else "build goes on", kill_runner)
    result = bench.build(make_model(), tmp_path)
    assert isinstance(result.error, BuildError)
    assert "the job was lost while building" in str(result.error)
    assert wait_for(lambda: bench.board.processes() == [])
    bench.board.behave()
    assert bench.build(make_model(), tmp_path).error is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("crash", "build ended with SIGABRT"),
        ("refuse", "build ended with exit status 1"),
        ("out_of_memory", "out of memory"),
        ("killed", "was killed, most likely by the kernel for lack of memory"),
        ("full", "the disk is full"),
    ],
)
def test_builder_that_dies_is_told_from_others_and_its_log_is_kept(bench, make_model, tmp_path, how, words) -> None:
    bench.board.behave(build=how)
    result = bench.build(make_model(), tmp_path)
    assert isinstance(result.error, BuildError)
    assert words in str(result.error)
    folder = tmp_path / "board"
    assert "Start parsing network model" in (folder / "build.log").read_text()
    assert words in json.loads((folder / "failure.json").read_text())["message"]
    assert not (folder / "model.plan").exists()
    assert not (folder / "build.json").exists()
    bench.board.behave()
    assert bench.build(make_model(), tmp_path).error is None
    assert not (folder / "failure.json").exists()


def test_other_boards_go_on_when_one_fails(make_bench, make_model, tmp_path) -> None:
    kind = "openssh" if Path("/usr/sbin/sshd").is_file() else "asyncssh"
    good, bad, gone = (make_bench(kind, name) for name in ("good", "bad", "gone"))
    bad.board.behave(build="crash")
    gone.wire.is_down = True
    lines = "".join((bench.folder / f"known-{'host.pub'}").read_text() for bench in (good, bad, gone))
    good.keys.known_hosts.write_text(lines)
    results = good.build(make_model(), tmp_path, others={"bad": bad.address, "gone": gone.address})
    assert [type(result.error).__name__ for result in results] == ["NoneType", "BuildError", "Unreachable"]
    assert (tmp_path / "board" / "model.plan").is_file()
    assert "Could not find any implementation" in (tmp_path / "bad" / "build.log").read_text()
    assert "cannot be reached" in (tmp_path / "gone" / "failure.json").read_text()


def test_layer_times_that_fail_do_not_lose_the_engine(bench, make_model, tmp_path) -> None:
    bench.board.behave(profile="crash")
    result = bench.build(make_model(), tmp_path)
    assert result.error is None, result.error
    assert "SIGABRT" in result.engine.facts["complaints"]["profile"]
    assert not (tmp_path / "board" / "profile.json").exists()


@pytest.mark.parametrize("how", ["hang", "fork"])
def test_build_that_never_ends_is_stopped_with_all_it_started(bench, make_model, tmp_path, how) -> None:
    bench.board.behave(build=how)
    result = bench.build(make_model(), tmp_path, BoardOptions(build_timeout_s=1.5))
    assert "build took longer than 1.5 s and was stopped" in str(result.error)
    assert wait_for(lambda: bench.board.processes() == [])


def test_engine_of_another_precision_is_refused_and_its_plan_dropped(bench, make_model, tmp_path) -> None:
    result = bench.build(make_model(precision="fp16"), tmp_path)
    assert "fp16 was asked for, but" in str(result.error)
    assert not (tmp_path / "board" / "model.plan").exists()
    assert (tmp_path / "board" / "layers.json").is_file()
    assert (tmp_path / "board" / "failure.json").is_file()


def test_layers_of_the_profiled_run_serve_where_the_build_exports_none(bench, make_model, tmp_path) -> None:
    bench.board.behave(no_layers_of_build=True)
    result = bench.build(make_model(), tmp_path)
    assert result.error is None, result.error
    assert json.loads((tmp_path / "board" / "layers.json").read_text())["Layers"]
    assert not (tmp_path / "board" / "layers_of_run.json").exists()


def test_engine_without_layers_is_refused(bench, make_model, tmp_path) -> None:
    bench.board.behave(no_layers=True)
    assert "exported no layers" in str(bench.build(make_model(), tmp_path).error)


def refusal(bench, model, output, **options) -> str:
    """Return why a board refuses, having checked that nothing was sent."""
    sent = bench.wire.bytes_sent
    result = bench.build(model, output, BoardOptions(**options))
    assert isinstance(result.error, TargetError), result.error
    assert result.error.exit_code == 4
    assert bench.wire.bytes_sent - sent < 100_000
    assert bench.board.jobs() == []
    return str(result.error)


def test_memory_and_disk_are_checked_before_anything_is_sent(bench, make_model, tmp_path, monkeypatch) -> None:
    model = make_model(size_bytes=MIB)
    bench.board.set_memory(300 * 1024)
    monkeypatch.setattr(checks, "SPARE_DISK_MIB", 1 << 40)
    words = refusal(bench, model, tmp_path)
    assert "not enough memory: 300 MiB free" in words
    assert "not enough disk" in words


@pytest.mark.parametrize(
    ("line", "opset", "target", "words"),
    [
        ("8.4", 17, None, "TensorRT 8.4.1 is older than 8.5"),
        ("8.6", 17, "jetson-orin-nx-16gb", "wrong TensorRT: jetson-orin-nx-16gb stands for 10.3, this has 8.6.2"),
        ("10.3", 17, "jetson-xavier-nx", "wrong device: jetson-xavier-nx is sm_72, this is sm_87"),
        ("10.3", 17, "jetson-orin", "GB of memory, this has 16.1"),
        ("10.3", 17, "jetson-orin-nano-8gb", "this says it is NVIDIA Jetson Orin NX"),
    ],
)
def test_wrong_board_or_software_is_named(bench, make_model, tmp_path, line, opset, target, words) -> None:
    bench.board.behave(line=line)
    assert words in refusal(bench, make_model(opset=opset), tmp_path, target=target and get_target(target))


def test_right_target_is_taken_and_another_power_mode_is_told(bench, make_model, tmp_path) -> None:
    bench.board.behave(mode="NV Power Mode: 15W\n2")
    result = bench.build(make_model(), tmp_path, BoardOptions(target=get_target("jetson-orin-nx-16gb")))
    assert result.error is None, result.error
    assert result.facts.power_mode == "15W"
    assert any("power mode 15W" in warning for warning in result.warnings)


def test_opset_that_is_too_new_is_refused(bench, make_model, tmp_path) -> None:
    bench.board.behave(line="8.6")
    result = bench.build(make_model(opset=19), tmp_path)
    assert "opset 19 is newer than TensorRT 8.6.2" in str(result.error)
    assert bench.board.jobs() == []


def test_host_key_that_changed_stops_everything(bench, make_model, tmp_path) -> None:
    bench.trust("stranger.pub")
    result = bench.build(make_model(), tmp_path)
    assert isinstance(result.error, TargetError)
    assert "HAS CHANGED" in str(result.error)
    assert list(bench.board.home.iterdir()) == []


def test_host_key_that_changes_during_a_job_is_not_waited_for(bench, make_model, tmp_path) -> None:
    bench.board.behave(build=60)

    def another_answers() -> None:
        bench.trust("stranger.pub")
        known = (bench.folder / "known-stranger.pub").read_text()
        (bench.folder / "known-host.pub").write_text(known)
        bench.wire.cut()

    bench.when("build goes on", another_answers)
    assert "HAS CHANGED" in str(bench.build(make_model(), tmp_path, keys=bench.keys).error)


def test_old_python_on_the_board_is_named(bench, make_model, tmp_path) -> None:
    python = bench.folder / "bin" / "python3"
    python.unlink()
    python.write_text('#!/bin/sh\necho \'EDGEKD-BOARD {"python": "3.6.9"}\'\nexit 4\n')
    python.chmod(0o755)
    assert "has Python 3.6.9; building there needs 3.8" in str(bench.build(make_model(), tmp_path).error)


def test_board_without_python_is_named(bench, make_model, tmp_path) -> None:
    (bench.folder / "bin" / "python3").unlink()
    (bench.folder / "login").write_text((bench.folder / "login").read_text().replace(":/usr/bin:/bin", ""))
    assert "the board needs python3" in str(bench.build(make_model(), tmp_path).error)


def test_two_jobs_do_not_run_at_the_same_time(bench, make_model, tmp_path) -> None:
    bench.board.behave(build=0.5)
    models = [make_model(), make_model(size_bytes=20)]
    results = {}

    def build(index: int) -> None:
        results[index] = bench.build(models[index], tmp_path / str(index))

    threads = [threading.Thread(target=build, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [results[index].error for index in range(2)] == [None, None]
    spans = []
    for index in range(2):
        steps = json.loads((tmp_path / str(index) / "board" / "state.json").read_text())["steps"].values()
        spans.append((min(step["started_s"] for step in steps), max(step["ended_s"] for step in steps)))
    first, second = sorted(spans)
    assert first[1] <= second[0]


INTERRUPTED = """
import sys
from pathlib import Path
import pytest
sys.path.insert(0, {here!r})
import conftest
from edgekd.boards import BoardOptions, Patience, build_on_boards
from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.targets.ssh_connection import Address, SshKeys
conftest.pretend(pytest.MonkeyPatch())
model = OnnxModel(FileRef.of(Path({onnx!r})), "fp32", "any", 17, "x", (3, 8, 8), "y", 1)
def listen(event): print(event.kind, event.message, flush=True)
keys = SshKeys(Path({known!r}), Path({user!r}))
boards = {{"board": Address("127.0.0.1", None, {port})}}
try:
    build_on_boards(model, boards, Path({out!r}), BoardOptions(), keys=keys,
        patience=conftest.PATIENCE, listener=listen)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [60, "fork"])
def test_interrupt_stops_the_job_on_the_board(bench, make_model, tmp_path, how) -> None:
    bench.board.behave(build=how)
    program = INTERRUPTED.format(
        here=str(Path(__file__).parent),
        onnx=make_model().file.path,
        known=str(bench.keys.known_hosts),
        user=str(bench.keys.identity),
        port=bench.wire.port,
        out=str(tmp_path),
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert wait_for(lambda: bench.board.calls("--onnx"), 30)
        host.send_signal(signal.SIGINT)
        said, _ = host.communicate(timeout=60)
    assert host.returncode == 130
    assert "the job on the board is cancelled" in said
    assert wait_for(lambda: bench.board.processes() == [])
    bench.board.behave()
    assert bench.build(make_model(), tmp_path).error is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_disk_that_fills_up_during_the_upload_is_named(bench, make_model, tmp_path, monkeypatch) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", bench.board.home], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        monkeypatch.setattr(checks, "SPARE_DISK_MIB", 0)
        monkeypatch.setattr(checks, "WEIGHT_COPIES", 0)
        result = bench.build(make_model(size_bytes=4 * MIB), tmp_path)
        assert "the disk is full" in str(result.error)
        assert list((bench.board.home / ".edgekd" / "blobs").glob("*.part")) == []
    finally:
        subprocess.run(["umount", "-l", bench.board.home], check=True)


def test_file_that_was_damaged_on_the_board_is_sent_again(bench, make_model, tmp_path) -> None:
    model = make_model(size_bytes=MIB)
    blobs = bench.board.home / ".edgekd" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{model.file.sha256}.part").write_bytes(b"nonsense" * 1000)
    result = bench.build(model, tmp_path / "a")
    assert result.error is None, result.error
    (blobs / model.file.sha256).write_bytes(b"damaged")
    again = bench.build(model, tmp_path / "b", BoardOptions(duration_s=2))
    assert again.error is None, again.error


def test_names_are_quoted_and_never_reach_a_shell(bench, make_model, tmp_path) -> None:
    evil = "x;touch $HOME/owned `touch owned`"
    model = make_model(batch=0)
    result = bench.build(dataclasses.replace(model, input_name=evil), tmp_path)
    assert result.error is not None
    assert not list(bench.board.root.parent.rglob("owned"))
