"""The program for a machine with a GPU, on a machine without: refusals, resuming, and a miniature of the study."""

import csv
import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "gpu" / "run.py"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_run"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_run"], sys.modules["sanitizer"]


@pytest.fixture
def plan(run, tmp_path):
    return run.Plan(
        commit="0000000",
        data=None,
        device="cpu",
        epochs=1,
        limit=64,
        methods="kd",
        pairs="resnet56-resnet20",
        seeds=1,
        peers=None,
        compile="no",
        results=tmp_path / "results",
        state=tmp_path / "state",
        stop_at=time.monotonic() + 600,
    )


def test_a_step_whose_packages_are_missing_names_them(run, plan, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("yaml", "accelerate") else found(name)
    )
    assert run.run_step("methods", plan) == 5
    assert "this Python lacks accelerate, PyYAML" in capsys.readouterr().out


def test_what_the_engine_needs_is_what_it_imports(run):
    script = "import sys, edgekd.distill, edgekd.data; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert set(run.ENGINE) <= loaded
    others = {"sklearn", "onnx", "onnxruntime", "typer", "rich", "jinja2", "filelock", "scipy", "timm"} & loaded
    brought_by_torch = {"jinja2", "filelock", "sympy"}
    assert others <= brought_by_torch


def test_a_slice_that_is_over_starts_nothing(run, plan, capsys):
    over = replace(plan, stop_at=time.monotonic() + 5)
    assert run.run_step("methods", over) == 0 and run.run_step("tests", over) == 0
    assert capsys.readouterr().out.count("not started") == 2
    assert run.run_step("nosuch", plan) == 2


def test_outcomes_of_tests_are_read_from_junit(run):
    text = """<testsuites><testsuite>
      <testcase classname="a" name="one"/>
      <testcase classname="a" name="two"><failure message="assert 1 == 2&#10;more">trace</failure></testcase>
      <testcase classname="b" name="three"><skipped message="no GPU"/></testcase>
    </testsuite></testsuites>"""
    assert run.test_outcomes(text) == {
        "a.one": "passed",
        "a.two": "failed: assert 1 == 2",
        "b.three": "skipped: no GPU",
    }


def test_a_miniature_of_the_cifar100_study_runs_on_a_cpu_and_resumes(plan, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 96), ("test", 40)):
        pixels = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        np.savez(packed / f"{name}-000.npz", images=pixels, labels=np.arange(count) % 4)
    (packed / "classes.txt").write_text("a\nb\nc\nd\n")
    command = [sys.executable, str(SCRIPT), "--steps=methods", "--device=cpu", "--commit=0000000", f"--data={packed}"]
    command += ["--epochs=2", "--limit=64", "--pairs=resnet56-resnet20", "--methods=plain,kd", "--seeds=1"]
    command += [f"--results={tmp_path / 'results'}", f"--state={tmp_path / 'state'}", "--minutes=5"]
    first = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "3 rows, 0 to go" in first.stderr
    (file,) = (tmp_path / "results").iterdir()
    assert file.name.startswith("methods-cifar100-epochs2-limit64_cpu-")
    rows = {row["method"]: row for row in csv.DictReader(file.open())}
    assert {name: row["error"] for name, row in rows.items()} == {"teacher": "", "plain": "", "kd": ""}
    assert all(row["val_accuracy"] == "" and 0 <= float(row["test_accuracy"]) <= 1 for row in rows.values())
    again = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "3 rows, 0 to go" in again.stderr and "kd" not in again.stdout


def test_the_kernel_step_leaves_the_benchmark_time_to_stop_and_is_done_when_its_file_is_there(run, plan, monkeypatch):
    commands = []
    monkeypatch.setattr(run, "_python", lambda command, _: commands.append(command) or 0)
    assert run.run_step("kernels", plan) == 0
    options = dict(option.removeprefix("--").split("=") for option in commands[0][1:])
    assert 8.5 < float(options.pop("minutes")) < 9.01
    into = Path(options.pop("into"))
    trial = {"table": "small", "compile": "no", "repeats": "2"}
    assert options == {"device": "cpu", "commit": "0000000", **trial}
    into.parent.mkdir(parents=True)
    into.touch()
    assert run.run_step("kernels", plan) == 0 and len(commands) == 1


def test_the_sanitizers_findings_are_added_up_over_processes(run):
    memory = ["========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n", "== ERROR SUMMARY: 1 error\n", "cut"]
    assert run.sanitizer.findings(memory) == {"processes": 2, "errors": 1}
    races = ["========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)\n"]
    assert run.sanitizer.findings(races) == {"processes": 1, "errors": 3}
    assert run.sanitizer.findings([]) == {"processes": 0, "errors": 0}


def test_without_a_sanitizer_the_step_says_so(run, plan, monkeypatch, capsys):
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    assert run.run_step("sanitizer", plan) == 5
    assert "compute-sanitizer of the CUDA toolkit is not on the PATH" in capsys.readouterr().out


def _sanitizer_that(body, run, monkeypatch, tmp_path):
    """A stand-in that is called as the real one is: `--log-file` names its log, what it watches follows."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        '#!/bin/sh\nname=$2\nwhile [ "$1" != --log-file ]; do shift; done\nlog=$2\nshift 2\n' + body + "\n",
        encoding="utf-8",
    )
    tool.chmod(0o755)
    monkeypatch.setattr(run.shutil, "which", lambda name: str(tool))
    monkeypatch.setattr(run.os, "cpu_count", lambda: 2)


def _kept(plan):
    (file,) = plan.results.glob("gpu-sanitizer_*.json")
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_sanitizer_watches_every_loss_run_once(run, plan, monkeypatch, tmp_path):
    body = 'echo "$name $@" >> ' + str(tmp_path / "calls") + '\necho "== ERROR SUMMARY: 0 errors" > $log\nexec "$@"'
    _sanitizer_that(body, run, monkeypatch, tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "kernels"))
    assert run.run_step("sanitizer", replace(plan, stop_at=plan.stop_at + 600)) == 0
    clean = {"processes": 2, "errors": 0, "failed": 0}
    assert _kept(plan) == {"memcheck": clean, "racecheck": clean}
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert sorted((call.split()[0], call.split()[-1]) for call in calls) == [
        (name, share) for name in ("memcheck", "racecheck") for share in ("0/2", "1/2")
    ]
    assert run.run_step("sanitizer", plan) == 0, "done"
    assert len((tmp_path / "calls").read_text(encoding="utf-8").splitlines()) == 4


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('echo "== ERROR SUMMARY: 2 errors" > $log', {"processes": 2, "errors": 4, "failed": 0}),
        ('echo "== ERROR SUMMARY: 0 errors" > $log; exit 3', {"processes": 2, "errors": 0, "failed": 2}),
        ("true", {"processes": 0, "errors": 0, "failed": 0}),
    ],
    ids=["errors", "a process that fails", "nothing watched"],
)
def test_what_the_sanitizer_finds_fails_the_step_and_is_kept(run, plan, monkeypatch, tmp_path, body, found):
    _sanitizer_that(body, run, monkeypatch, tmp_path)
    assert run.run_step("sanitizer", plan) == 1
    assert _kept(plan) == {"memcheck": found, "racecheck": found}


def test_a_sanitizer_that_is_not_ready_in_time_is_stopped(run, monkeypatch, tmp_path):
    _sanitizer_that("exec sleep 600", run, monkeypatch, tmp_path)
    with pytest.raises(TimeoutError, match="not ready in 0 s"):
        run.sanitizer.check(
            str(tmp_path / "compute-sanitizer"), "memcheck", tmp_path / "logs", shares=2, device="cpu", limit_s=0.3
        )
