"""The parent's side, with programs that misbehave in the place of the builder."""

import os
import sys
import time

import pytest

from edgekd.core.errors import BuildError, StorageError
from edgekd.core.events import Event
from edgekd.engine import BuildOptions
from edgekd.engine.plan_process import PlanBuilder, run_child
from edgekd.targets import get_target

OPTIONS = BuildOptions(get_target("rtx-3090"))


@pytest.fixture
def builder_module(tmp_path, monkeypatch):
    """Write a program that is run as the build process, and give its module name."""

    def write(body):
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        (folder / "edgekd_test_builder.py").write_text(
            "import sys, os, json, signal\ngiven = dict(argument.split('=', 1) for argument in sys.argv[1:])\n" + body
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return PlanBuilder("tensorrt_rtx", "edgekd_test_builder", "sm_86", "SM86")

    return write


def test_a_crash_keeps_its_log_and_leaves_no_plan(builder_module, onnx_model, tmp_path):
    builder = builder_module("print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(BuildError, match=r"died \(signal SIGSEGV\); the end of its log .*build.log:\nlast words"):
        builder.build(onnx_model("fp32"), tmp_path / "engine", OPTIONS)
    assert (tmp_path / "engine" / "build.log").read_text() == "last words\n"
    assert [path.name for path in (tmp_path / "engine").iterdir()] == ["build.log"]


def test_an_exit_without_report_is_a_crash(builder_module, onnx_model, tmp_path):
    with pytest.raises(BuildError, match=r"died \(exit status 3\); the end of its log .*:\n\(empty\)"):
        builder_module("sys.exit(3)").build(onnx_model("fp32"), tmp_path / "engine", OPTIONS)


def test_a_failed_build_keeps_the_engine_of_the_one_before(builder_module, onnx_model, tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "model.engine").write_bytes(b"older")
    with pytest.raises(BuildError):
        builder_module("open(given['--plan'], 'wb').write(b'half')").build(onnx_model("fp32"), folder, OPTIONS)
    assert (folder / "model.engine").read_bytes() == b"older"


def test_refusals_list_every_error(builder_module, onnx_model, tmp_path):
    builder = builder_module("json.dump({'status': 'refused', 'errors': ['one', 'two']}, open(given['--report'], 'w'))")
    with pytest.raises(BuildError, match="the builder refused the model:\n  one\n  two"):
        builder.build(onnx_model("fp32"), tmp_path / "engine", OPTIONS)


def test_progress_and_notes_reach_the_listener(builder_module, onnx_model, tmp_path):
    events: list[Event] = []
    builder = builder_module(
        "print(json.dumps({'phase': 'Fusing', 'done': 2, 'total': 5})); print('a library speaks'); sys.exit(1)"
    )
    options = BuildOptions(get_target("rtx-3090"), listener=events.append)
    with pytest.raises(BuildError):
        builder.build(onnx_model("fp32"), tmp_path / "engine", options)
    assert [(event.kind, event.message, event.done, event.total) for event in events[1:]] == [
        ("progress", "Fusing", 2, 5),
        ("note", "a library speaks", 0, 0),
    ]


def test_a_child_that_hangs_is_killed(tmp_path):
    started = time.monotonic()
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    lines: list[str] = []
    result = run_child([sys.executable, "-c", program], log=tmp_path / "log", timeout_s=0.5, on_line=lines.append)
    assert result.is_timed_out
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[0]), 0)


def test_a_child_does_not_outlive_an_interrupted_caller(tmp_path):
    lines: list[str] = []

    def interrupt(line):
        lines.append(line)
        raise KeyboardInterrupt

    program = "import os, time; print(os.getpid(), flush=True); time.sleep(30)"
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_child([sys.executable, "-c", program], log=tmp_path / "log", timeout_s=60, on_line=interrupt)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(lines[0]), 0)


def test_an_unwritable_folder_is_a_storage_error(builder_module, onnx_model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        builder_module("").build(onnx_model("fp32"), tmp_path / "file" / "engine", OPTIONS)
