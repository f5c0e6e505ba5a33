"""Every way to fail ends in one message and the documented exit code."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgekd.cli.failure import ReportingGroup
from edgekd.cli.outcome import Outcome, delivering
from edgekd.core import errors

TIMEOUT_S = 60
CODES = {
    "EdgeKDError": 1,
    "ConfigError": 2,
    "DataError": 1,
    "TrainingDiverged": 1,
    "OutOfMemory": 1,
    "ProcessLost": 1,
    "ExportError": 1,
    "BuildError": 1,
    "RunLocked": 1,
    "StorageError": 1,
    "GateMissed": 3,
    "ParityError": 3,
    "BudgetExceeded": 3,
    "TargetError": 4,
    "PreconditionError": 5,
    "BundleError": 6,
    "SignatureError": 6,
}


def app_raising(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=ReportingGroup, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.callback()
    def root(verbose: bool = typer.Option(False, "--verbose", "-v")) -> None:
        pass

    def fail() -> Outcome:
        raise error

    app.command("fail")(delivering(fail))
    return app


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_error_ends_with_its_exit_code_and_one_message(name, code):
    error = getattr(errors, name)("what happened: 3 > 2; do [this]")
    result = CliRunner().invoke(app_raising(error), ["fail"])
    assert result.exit_code == code
    assert (result.stdout, result.stderr) == ("", "error: what happened: 3 > 2; do [this]\n")


def test_every_error_class_has_its_code_checked():
    classes = {
        name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, errors.EdgeKDError)
    }
    assert classes == {*CODES, "CorruptInput"}


def test_a_corrupt_input_ends_as_wrong_data_do():
    result = CliRunner().invoke(app_raising(errors.CorruptInput("a.png", "cut short")), ["fail"])
    assert result.exit_code == errors.DataError.exit_code
    assert "a.png" in result.stderr and "cut short" in result.stderr


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_error_is_one_json_document_when_json_is_asked_for(name, code):
    result = CliRunner().invoke(app_raising(getattr(errors, name)("no ünit")), ["fail", "--json"])
    assert result.exit_code == code
    assert json.loads(result.stdout) == {
        "schema_version": 1,
        "error": {"type": name, "message": "no ünit", "exit_code": code},
    }
    assert result.stderr == "error: no ünit\n"


def test_unexpected_error_exits_1_and_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = CliRunner().invoke(app_raising(ZeroDivisionError("by nought")), ["fail"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unexpected ZeroDivisionError: by nought; ")
    assert "Traceback" not in result.stderr
    (kept,) = tmp_path.glob("edgekd-*.traceback.txt")
    assert str(kept) in result.stderr
    assert re.search(r"raise error\n.*ZeroDivisionError: by nought", kept.read_text(), re.DOTALL)


def test_unexpected_error_is_still_reported_when_its_traceback_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    result = CliRunner().invoke(app_raising(KeyError("k")), ["fail"])
    assert result.exit_code == 1
    assert "run again with edgekd -v" in result.stderr


@pytest.mark.parametrize("error", [ZeroDivisionError("by nought"), errors.DataError("empty split")])
def test_verbose_shows_the_traceback_and_keeps_no_file(tmp_path, monkeypatch, error):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = CliRunner().invoke(app_raising(error), ["-v", "fail"])
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert list(tmp_path.iterdir()) == []


SLEEPER = """
import sys, time
from edgekd.cli.main import app, main
from edgekd.cli.outcome import delivering

def sleep():
    print("working", file=sys.stderr, flush=True)
    time.sleep(60)

app.command("sleep")(delivering(sleep))
main()
"""


@pytest.mark.parametrize("words", [["sleep"], ["sleep", "--json"]])
def test_ctrl_c_exits_130_and_tells_how_to_resume(words):
    command = [sys.executable, "-c", SLEEPER, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert stderr == "error: interrupted; run the same command again to resume\n"
    if "--json" in words:
        assert json.loads(stdout)["error"]["exit_code"] == 130
    else:
        assert stdout == ""


def test_error_is_coloured_on_a_terminal_only():
    main, side = pty.openpty()
    command = [sys.executable, "-c", "from edgekd.cli.main import main; main()", "targets", "show", "[bold]x[/nope]"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "40"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(command, stderr=side, stdout=subprocess.PIPE, env=environment, timeout=TIMEOUT_S, check=False)
    os.close(side)
    shown = os.read(main, 10_000).decode()
    os.close(main)
    assert done.returncode == 2
    assert shown.startswith("\x1b[1;31merror: \x1b[0munknown target '[bold]x[/nope]'")


def test_closed_pipe_ends_without_a_traceback():
    command = f"{sys.executable} -c 'from edgekd.cli.main import main; main()' targets list --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


def test_success_code_is_zero():
    app = typer.Typer(cls=ReportingGroup, rich_markup_mode=None)

    @app.callback()
    def root() -> None:
        pass

    app.command("plain")(lambda: None)
    app.command("fine")(delivering(lambda: Outcome({}, "fine")))
    assert CliRunner().invoke(app, ["plain"]).exit_code == 0
    assert CliRunner().invoke(app, ["fine"]).exit_code == 0


def test_message_never_shows_the_folder_of_the_sources():
    result = CliRunner().invoke(app_raising(errors.ConfigError("wrong")), ["fail"])
    assert str(Path(errors.__file__).parent) not in result.output
