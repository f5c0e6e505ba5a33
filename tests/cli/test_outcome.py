"""Results reach stdout alone and whole; everything else goes to stderr."""

import inspect
import json
import os
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from edgekd.cli.failure import ReportingGroup
from edgekd.cli.outcome import Outcome, delivering, stdout_kept_for_results
from edgekd.core.errors import ExitCode

NOISY = """
import ctypes, os, sys
from edgekd.cli.main import app, main
from edgekd.cli.outcome import Outcome, delivering

def noisy():
    print("from python")
    os.write(1, b"from the descriptor\\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"from C")
    libc.fflush(None)
    os.system("echo from a child")
    return Outcome({"answer": 42}, "the answer is 42")

app.command("noisy")(delivering(noisy))
main()
"""


def app_with(command) -> typer.Typer:
    app = typer.Typer(cls=ReportingGroup, rich_markup_mode=None)

    @app.callback()
    def root() -> None:
        pass

    app.command("go")(delivering(command))
    return app


@pytest.mark.parametrize("words", [["noisy"], ["noisy", "--json"]])
def test_only_the_result_reaches_stdout_of_a_real_process(words):
    done = subprocess.run([sys.executable, "-c", NOISY, *words], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stderr.splitlines()) == ["from C", "from a child", "from python", "from the descriptor"]
    if "--json" in words:
        assert json.loads(done.stdout) == {"schema_version": 1, "answer": 42}
    else:
        assert done.stdout == "the answer is 42\n"


def test_what_a_command_prints_in_this_process_goes_to_stderr():
    def command() -> Outcome:
        typer.echo("chatter")
        return Outcome({}, "result")

    result = CliRunner().invoke(app_with(command), ["go"])
    assert (result.stdout, result.stderr) == ("result\n", "chatter\n")


def test_what_was_bound_to_stdout_before_the_command_goes_to_stderr_too():
    code = NOISY.replace('print("from python")', 'early.write("from python\\n")').replace(
        "import ctypes, os, sys", "import ctypes, os, sys\nearly = sys.stdout"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code, "noisy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert done.stdout == "the answer is 42\n"
    assert "from python\n" in done.stderr


def test_document_that_brings_its_own_schema_version_keeps_it():
    app = app_with(lambda: Outcome({"schema_version": 7, "x": 1}, ""))
    assert json.loads(CliRunner().invoke(app, ["go", "--json"]).stdout) == {"schema_version": 7, "x": 1}


@pytest.mark.parametrize("words", [["go"], ["go", "--json"]])
def test_exit_code_of_a_result_is_the_commands(words):
    app = app_with(lambda: Outcome({"is_kept": False}, "missed", ExitCode.GATE_MISSED))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    assert "missed" in result.stdout or json.loads(result.stdout)["is_kept"] is False


def test_nan_is_never_printed_as_json():
    result = CliRunner().invoke(app_with(lambda: Outcome({"x": float("nan")}, "")), ["go", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["type"] == "ValueError"


def test_options_of_the_command_are_kept_and_json_is_added():
    def command(name: Annotated[str, typer.Argument()], *, times: Annotated[int, typer.Option(min=1)] = 2) -> Outcome:
        return Outcome({"said": name * times}, name * times)

    assert list(inspect.signature(delivering(command)).parameters) == ["name", "times", "as_json"]
    app = app_with(command)
    assert CliRunner().invoke(app, ["go", "ab"]).stdout == "abab\n"
    assert json.loads(CliRunner().invoke(app, ["go", "ab", "--times", "3", "--json"]).stdout)["said"] == "ababab"
    assert CliRunner().invoke(app, ["go", "ab", "--times", "0"]).exit_code == 2


def test_stdout_comes_back_after_an_error(capfd):
    with pytest.raises(RuntimeError), stdout_kept_for_results():
        raise RuntimeError
    typer.echo("back")
    assert capfd.readouterr().out == "back\n"
