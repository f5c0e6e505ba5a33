"""The benchmark of kernels on a CPU in miniature: it resumes, its rows are complete, its choices are the fastest."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "bench" / "kernels.py"


@pytest.fixture
def kernels(bench):
    return bench("kernels")


def _run(*arguments):
    options = ["--device=cpu", "--table=small", "--repeats=2", "--compile=no", "--commit=0000000", "--losses=kd_kl,pkd"]
    paths = ":".join(str(ROOT / folder) for folder in (".", "kernels", "tools/bench"))
    environment = {"PYTHONPATH": paths, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT).stdout


def test_a_slice_that_is_over_pauses_and_the_next_one_completes_the_file(kernels, tmp_path):
    file = tmp_path / "kernels.csv"
    part = tmp_path / "kernels.csv.part"
    assert "paused" in _run(f"--into={file}", "--minutes=0") and not file.exists()
    plan = kernels.Plan("cpu", "small", ("kd_kl",), 2, "no", None, float("inf"), {"commit": "0000000"})
    assert kernels.measure(plan, file) == 0
    file.rename(part)
    before = part.read_text()
    assert str(file) in _run(f"--into={file}")
    assert file.read_text().startswith(before) and not part.exists()
    rows = kernels.read(file)
    by_loss = {loss: {row.impl for row in rows if row.loss == loss} for loss in ("kd_kl", "pkd", "step:kd_kl")}
    assert by_loss["kd_kl"] == by_loss["pkd"] == {"eager", "peer", "torch"}
    assert by_loss["step:kd_kl"] == {"eager", "auto", "no loss"}
    assert len(rows) == len({(row.loss, row.shape, row.impl) for row in rows})
    for row in rows:
        assert float(row.both_p20_ms) <= float(row.both_ms) <= float(row.both_p80_ms) and row.error == ""
        assert row.loss.startswith("step:") or float(row.forward_ms) > 0 < float(row.copy_gb_s)


def _row(kernels, impl, both_ms, size, **more):
    row = kernels.Row("kd_kl", f"{size}", "float32", "float32", impl, both_ms=str(both_ms), input_bytes=str(size))
    return dataclasses.replace(row, **({"capability": "sm_90"} | more))


def test_choices_are_the_fastest_up_to_each_size_and_dispatch_reads_them(kernels, monkeypatch):
    times = {10: (3, 1, 2), 20: (3, 1, 2), 40: (3, 2, 1), 80: (9, 4, 2)}
    rows = [
        _row(kernels, impl, ms, size)
        for size, found in times.items()
        for impl, ms in zip(("torch", "triton", "cuda"), found, strict=True)
    ]
    rows += [_row(kernels, "eager", 0.1, 10), _row(kernels, "triton", 0.1, 80, error="broken")]
    table = json.loads(kernels.choices(rows))
    assert table == {"sm_90": {"kd_kl": {"float32": [[20, "triton"], [None, "cuda"]]}}}
    dispatch = importlib.import_module("edgekd_kernels._dispatch")
    assert json.loads(kernels.CHOICES.read_text()) == dispatch._MEASURED


def test_choices_weigh_what_the_gpu_does_and_what_waits_for_it(kernels):
    rows = [_row(kernels, "torch", 1, 10), _row(kernels, "triton", 2, 10, graph_ms="0.5")]
    assert json.loads(kernels.choices(rows))["sm_90"]["kd_kl"]["float32"] == [[None, "triton"]]
    rows.append(_row(kernels, "cuda", 3, 10, graph_ms="0.4", student_dtype="bfloat16"))
    assert json.loads(kernels.choices(rows))["sm_90"]["kd_kl"]["bfloat16"] == [[None, "cuda"]]


def test_choices_without_a_gpu_are_none(kernels):
    assert json.loads(kernels.choices([dataclasses.replace(_row(kernels, "torch", 1, 1), capability="")])) == {}


def test_a_loss_that_fails_is_a_row_that_says_so(kernels, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(kernels.peer_losses, "kd_kl", broken)
    plan = kernels.Plan("cpu", "small", ("kd_kl",), 1, "no", None, float("inf"), {})
    case = kernels.kernel_cases.cases("kd_kl", "small")[0]
    rows = {row.impl: row.error for row in kernels._rows(case, plan, kernels.Clock("cpu"))}
    assert rows == {"peer": "RuntimeError: no such kernel", "eager": "", "torch": ""}
