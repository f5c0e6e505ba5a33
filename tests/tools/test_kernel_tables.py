"""Tables of speed: which time counts, which of ours is taken, and what a loss takes of a step."""

import csv
import importlib

import pytest


@pytest.fixture
def tables(monkeypatch, tmp_path):
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools" / "bench"))
    module = importlib.import_module("kernel_tables")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


COLUMNS = (
    "loss",
    "shape",
    "student_dtype",
    "teacher_dtype",
    "impl",
    "both_ms",
    "graph_ms",
    "gb_s",
    "copy_gb_s",
    "error",
)


def _write(folder, *rows, name="kernels_gpu-X_torch1_abc.csv"):
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(dict(zip(COLUMNS, row, strict=False)) for row in rows)


def _row(impl, both_ms, graph_ms, loss="kd_kl", error=""):
    return loss, "64x100", "float32", "float32", impl, both_ms, graph_ms, "1000", "4000", error


def test_on_a_gpu_its_work_counts_and_what_cannot_be_captured_is_left_out(tables, tmp_path):
    _write(
        tmp_path,
        _row("eager", 0.9, 0.6),
        _row("peer", 0.5, ""),
        _row("compile", 0.1, 0.3),
        _row("torch", 0.3, 0.4),
        _row("triton", 0.4, 0.2),
        _row("cuda", 0.1, 0.1, error="broken"),
    )
    table = tables.speed_table("kernels_gpu-*.csv")
    assert "| `kd_kl` | 64x100 fp32 | triton | 0.200 | 25 % | 3.00 |  | 1.50 |" in table
    assert "GPU's work: 3.00 over the textbook, slower in 0 of 1; 1.50 over torch.compile, slower in 0 of 1." in table
    waited = "3.00 over the textbook, slower in 0 of 1; 1.67 over published code, slower in 0 of 1; 0.33 over"
    assert f"Python included: {waited} torch.compile, slower in 1 of 1." in table


def test_on_a_cpu_what_one_waits_counts(tables, tmp_path):
    _write(tmp_path, _row("eager", 0.9, ""), _row("torch", 0.3, ""), name="kernels_cpu-X_torch1_abc.csv")
    table = tables.speed_table("kernels_cpu-*.csv")
    assert "| torch | 0.300 | 25 % | 3.00 |  |  |" in table and "Geometric means: 3.00 over the textbook" in table


def test_a_losss_share_of_a_step_is_what_the_step_is_longer_by(tables, tmp_path):
    step = "step:pkd"
    rows = [_row(impl, 9, ms, loss=step) for impl, ms in (("no loss", 3.6), ("eager", 4.0), ("auto", 3.75))]
    _write(tmp_path, *rows)
    table = tables.steps_table("kernels_gpu-*.csv")
    assert "| `pkd` | 64x100 | 3.600 | 4.000 | 3.750 | 10.0 % | 4.0 % |" in table
    assert "pkd" not in tables.speed_table("kernels_gpu-*.csv")


def test_without_a_file_the_table_says_so(tables):
    assert tables.speed_table("kernels_gpu-*.csv") == tables.steps_table("kernels_gpu-*.csv") == "Not yet run.\n"


def test_what_kernels_need_is_told_in_words(tables, tmp_path):
    assert tables.resources_text() == "Not yet run.\n"
    header = "family,kernel,sm,configurations,registers,stack_bytes,spilled_bytes,shared_bytes\n"
    file = tmp_path / "kernel-resources_cpu-x.csv"
    file.write_text(header + "f,a,80,900,40,0,0,512\nf,a,90,900,255,8,0,512\nf,b,80,1,128,0,0,0\n")
    said = tables.resources_text()
    assert said.startswith(
        "2 kernels in all their configurations, 1,801 compilations for sm_80, sm_90: none of them spills"
    )
    assert "the most a thread has is 255 (`a`)" in said and file.name in said
    file.write_text(header + "f,a,80,900,40,0,12,512\n")
    assert "1 of them spill registers" in tables.resources_text()
