"""The command line as a whole: what it costs to start, and what every command has in common."""

import json
import re
import subprocess
import sys

import pytest
from typer.main import get_command

from edgekd import __version__
from edgekd.cli.main import app

HEAVY = ("torch", "onnx", "onnxruntime", "sklearn", "numpy", "rich", "PIL", "scipy", "edgekd.targets")
LATER = ("pydantic", "yaml", "asyncio")
LIMIT_S = 0.3


def walk(command, path=()):
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))
    else:
        yield path


COMMANDS = sorted(walk(get_command(app)))


def run(*words, code="from edgekd.cli.main import main; main()"):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)


def test_import_takes_less_than_300_ms_of_the_processor_and_brings_in_nothing_heavy():
    code = (
        "import sys, time; t = time.process_time(); import edgekd.cli.main; s = time.process_time() - t;"
        "import json; print(json.dumps([s, sorted(sys.modules)]))"
    )
    answers = [json.loads(run(code=code).stdout) for _ in range(3)]
    assert not set(answers[0][1]) & {*HEAVY, *LATER}
    assert min(seconds for seconds, _ in answers) < LIMIT_S


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_an_example_and_json_and_brings_in_nothing_heavy(path):
    code = (
        "import sys\nfrom edgekd.cli.main import main\ntry:\n    main()\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = run(*path, "--help", code=code)
    assert done.returncode == 0
    assert not set(done.stderr.split()) & set(HEAVY)
    assert "--json" in done.stdout
    assert re.search(rf"\n  Examples?:\n    edgekd {' '.join(path)}\b", done.stdout)


def test_promised_commands_are_there():
    promised = {"distill", "export", "quantize", "build", "profile", "report", "targets", "methods", "doctor"}
    assert promised <= {path[0] for path in COMMANDS}


def test_version_is_the_package_version(edgekd):
    result = edgekd("--version")
    assert (result.exit_code, result.stdout) == (0, f"edgekd {__version__}\n")


@pytest.mark.parametrize("words", [(), ("targets",), ("report",)])
def test_missing_command_prints_help_and_exits_2(edgekd, words):
    result = edgekd(*words)
    assert result.exit_code == 2
    assert "Commands:" in result.output
    assert "Error" not in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("no-such-command",), "No such command 'no-such-command'"),
        (("--no-such-option",), "No such option"),
        (("targets", "show"), "Missing argument"),
        (("profile", "absent.onnx"), "does not exist"),
        (("build", "absent.onnx", "-o", "x", "--batch", "0"), "'--batch'"),
    ],
)
def test_usage_error_exits_2_and_says_what_is_wrong(edgekd, words, says):
    result = edgekd(*words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Usage: edgekd" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("words", [("no-such-command", "--json"), ("targets", "show", "--json")])
def test_usage_error_is_one_json_document_when_json_is_asked_for(edgekd, words):
    result = edgekd(*words)
    document = json.loads(result.stdout)
    assert document["schema_version"] == 1
    assert set(document["error"]) == {"type", "message", "exit_code"}
    assert document["error"]["exit_code"] == result.exit_code == 2


def test_real_process_exits_with_the_documented_code_and_keeps_stdout_clean():
    done = run("targets", "show", "jetson-orim")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown target 'jetson-orim'; did you mean jetson-orin")
    assert "Traceback" not in done.stderr


def test_python_m_edgekd_is_the_command_line() -> None:
    command = [sys.executable, "-m", "edgekd", "targets", "show", "jetson-nano", "--json"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert "jetson-nano" in json.dumps(shown)
    assert subprocess.run([*command[:3], "no-such"], capture_output=True, check=False).returncode == 2
