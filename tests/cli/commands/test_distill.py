"""`edgekd distill` and `edgekd methods` as a user meets them: processes, exit codes, documents on stdout."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

SMALL = {
    "data": {"name": "digits", "limit": 300},
    "teacher": {"net": "resnet8-w8", "epochs": 2},
    "student": {"depths": [8], "widths": [2], "max_share": 0.9},
    "train": {"epochs": 1, "batch_size": 32, "device": "cpu"},
    "seeds": 1,
    "compare_alone": False,
    "calibration_size": 32,
    "also_build": [],
}


def _edgekd(*arguments, cwd):
    command = [sys.executable, "-c", "from edgekd.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a configuration, and a run in `runs/kept` that kept its budget."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "run.yaml").write_text(yaml.safe_dump(SMALL))
    done = _edgekd(
        "distill", "run.yaml", "--target", "cpu", "--budget", "p99<10s", "--out", "runs/kept", "--json", cwd=folder
    )
    return folder, done


def test_a_kept_budget_ends_with_0_and_one_document_on_stdout(small):
    _, done = small
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1
    assert document["verdict"] == "kept"
    assert document["latency"][0]["kind"] == "measured"
    assert "distilled/seed0" in done.stderr


def test_a_missed_budget_ends_with_3_and_says_what_is_reachable(small):
    folder, _ = small
    done = _edgekd("distill", "run.yaml", "--target", "cpu", "--budget", "p99<1us", "--out", "runs/kept", cwd=folder)
    assert done.returncode == 3
    assert re.search(r"error: no student keeps p99<0.001ms on cpu: the smallest reachable is p99<[\d.]+ms", done.stderr)
    assert "Traceback" not in done.stderr


def test_the_same_command_resumes_and_prints_the_verdict(small):
    folder, _ = small
    done = _edgekd("distill", "run.yaml", "--target", "cpu", "--budget", "p99<10s", "--out", "runs/kept", cwd=folder)
    assert done.returncode == 0
    assert "distilled/seed0: kept from" in done.stderr
    assert "Budget kept, measured" in done.stdout
    assert "runs/kept/report.html" in done.stdout


def test_the_report_can_be_shown_again(small):
    folder, done = small
    shown = _edgekd("report", "show", "runs/kept", "--json", cwd=folder)
    assert json.loads(shown.stdout)["scores"] == json.loads(done.stdout)["scores"]


def test_a_dry_run_shows_the_configuration_and_writes_nothing(small, tmp_path):
    folder, _ = small
    done = _edgekd(
        "distill",
        folder / "run.yaml",
        "--target",
        "jetson-orin",
        "--set",
        "train.lr=0.2",
        "--dry-run",
        "--json",
        cwd=tmp_path,
    )
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert document["config"]["train"]["lr"] == 0.2
    assert document["config"]["target"] == "jetson-orin"
    assert document["folder"] == "runs/digits-multi-granularity-jetson-orin"
    assert list(tmp_path.iterdir()) == []
    assert f"{document['folder']}/checkpoints" in document["writes"]
    assert document["estimate"][-1]["training"] == "distilled"
    assert all(stage["step_s"] > 0 for one in document["estimate"] for stage in one["stages"])


def test_a_network_of_ones_own_is_no_family():
    from edgekd.cli.commands.distill import _student

    assert _student("mine.py:student") == {"net": "mine.py:student"}
    assert _student("timm:mobilenetv3_small_050") == {"net": "timm:mobilenetv3_small_050"}
    assert _student("folder/student1.json") == {"found": "folder/student1.json"}


def test_the_teacher_itself_can_be_cut_to_a_student(small, tmp_path):
    pytest.importorskip("torch_pruning", reason="extra prune is not installed")
    folder, _ = small
    more = ("--student", "pruned", "--budget", "p99<1s", "--dry-run", "--json")
    done = _edgekd("distill", folder / "run.yaml", "--target", "jetson-orin", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["config"]["student"]["max_share"] == 1.0
    assert document["estimate"][-1]["network"] == "pruned:resnet8-w8@8-u.75"


@pytest.mark.parametrize(
    "arguments, code, fragment",
    [
        (["--target", "jetson-orn"], 2, "unknown target 'jetson-orn'; did you mean jetson-orin"),
        (["--budget", "fast"], 2, "is not of the form p99<8ms"),
        (["--set", "train.lrr=1"], 2, "train.lrr: unknown key"),
        (["--method", "magg"], 2, "did you mean mag"),
        (["--student", "resnetty"], 2, "network 'resnetty'"),
        (["--data", "cifar10", "--data-path", "nowhere"], 5, "nowhere"),
        (["--data", "cifar11"], 2, "did you mean cifar10"),
        (["--teacher-weights", "none.pth"], 2, "none.pth: no such file"),
    ],
)
def test_bad_input_is_one_message_and_its_exit_code(edgekd, tmp_path, monkeypatch, arguments, code, fragment):
    monkeypatch.chdir(tmp_path)
    done = edgekd("distill", *arguments)
    assert done.exit_code == code, done.stderr
    assert fragment in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_error_is_a_document_too_when_json_is_asked_for(tmp_path):
    done = _edgekd("distill", "--target", "jetson-orn", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["error"]["exit_code"] == done.returncode == 2
    assert document["error"]["type"] == "ConfigError"


def _start(folder, out):
    command = [sys.executable, "-c", "from edgekd.cli.main import main; main()", "distill", "run.yaml", "--target"]
    command += ["jetson-orin", "--set", "train.epochs=400", "--set", "student.widths=[2]", "--out", out]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _wait_for(process, text):
    seen = ""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        line = process.stderr.readline()
        seen += line
        if text in line:
            return
    pytest.fail(f"{text!r} never appeared: {seen}")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(folder):
    process = _start(folder, "run")
    _wait_for(process, "distilled/seed0/student: 1/400")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in stderr
    assert "Traceback" not in stderr


def test_a_killed_run_loses_only_the_stage_it_was_in(folder):
    process = _start(folder, "run")
    _wait_for(process, "distilled/seed0/student: 1/400")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = _edgekd(
        "distill", "run.yaml", "--target", "jetson-orin", "--set", "student.widths=[2]", "--out", "run", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "teacher: kept from" in done.stderr
    assert "distilled/seed0: start" in done.stderr
    assert not list((folder / "run").rglob("*.part"))


def test_methods_are_listed_and_shown(tmp_path):
    listed = json.loads(_edgekd("methods", "list", "--json", cwd=tmp_path).stdout)
    assert {"mag", "mas", "vid"} <= {method["name"] for method in listed["methods"]}
    shown = _edgekd("methods", "show", "mas+sp", cwd=tmp_path)
    assert "Similarity-preserving" in shown.stdout
    assert "weight: 3000.0" in shown.stdout
    assert "Shao, Chen 2021" in _edgekd("methods", "list", cwd=tmp_path).stdout


@pytest.mark.parametrize("document, key", [("config", "budget"), ("recipe", "stages"), ("report", "verdict")])
def test_schemas_are_printed(tmp_path, document, key):
    printed = json.loads(_edgekd("schema", document, cwd=tmp_path).stdout)
    assert key in printed["properties"]


@pytest.mark.parametrize(
    ("target", "budget", "code", "message"),
    [
        ("jetson-orin", "p50<1ms, p99<0.05ms", 3, "below the launch floor of jetson-orin"),
        ("cpu", "p99<5ms, energy<80mJ", 2, "energy (energy<80mJ) cannot be known on cpu"),
        ("jetson-orin@70W", "p99<5ms", 2, "unknown power mode of jetson-orin '70W'"),
    ],
)
def test_a_budget_that_cannot_be_kept_or_judged_is_refused_before_anything_runs(
    edgekd, tmp_path, target, budget, code, message
):
    result = edgekd("distill", "--target", target, "--budget", budget, "--out", tmp_path / "run")
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert not (tmp_path / "run").exists()
