"""Reports come back as they were written, whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from edgekd.core.errors import ConfigError, StorageError
from edgekd.report import files, read_report, render_html, write_report


def test_report_survives_writing_and_reading(report, tmp_path):
    json_file, html_file = write_report(report, tmp_path / "run")
    assert read_report(tmp_path / "run") == report
    assert read_report(tmp_path / "run" / "report.json") == report
    content = (tmp_path / "run" / "report.json").read_bytes()
    assert json_file.sha256 == hashlib.sha256(content).hexdigest()
    assert html_file.size_bytes == os.path.getsize(tmp_path / "run" / "report.html")
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8") == render_html(report)
    assert sorted(os.listdir(tmp_path / "run")) == ["report.html", "report.json"]


def test_json_has_the_promised_shape(report, tmp_path):
    write_report(report, tmp_path)
    document = json.loads((tmp_path / "report.json").read_bytes())
    assert document["schema_version"] == 1
    assert document["verdict"] == "predicted kept"
    assert [item["value"] for item in document["scores"]["alone"]["seeds"]] == [0.9111, 0.8972, 0.9028]
    assert {row["kind"] for row in document["latency"]} == {"predicted", "measured"}


def test_failed_page_leaves_no_report(report, tmp_path, monkeypatch):
    def broken(_):
        raise RuntimeError("template")

    monkeypatch.setattr(files, "render_html", broken)
    with pytest.raises(RuntimeError):
        write_report(report, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_written_is_a_storage_error(report, tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        write_report(report, tmp_path / "run")


def test_absent_report_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match=r"report\.json: no report can be read there: .* run edgekd distill first"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("{", StorageError, "not JSON"),
        ("[" * 100_000, StorageError, "not JSON"),
        ("[]", ConfigError, "schema_version None"),
        ('{"schema_version": 2}', ConfigError, "schema_version 2; this edgekd reads 1"),
        ('{"schema_version": 1}', StorageError, r"verdict: Field required"),
    ],
)
def test_damaged_report_is_refused(tmp_path, content, error, words):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(error, match=words):
        read_report(tmp_path)


def test_every_problem_of_a_damaged_report_is_listed(report, tmp_path):
    write_report(report, tmp_path)
    document = json.loads((tmp_path / "report.json").read_bytes())
    document["latency"][0]["p50_ms"] = "fast"
    del document["method"]
    (tmp_path / "report.json").write_text(json.dumps(document))
    with pytest.raises(StorageError) as caught:
        read_report(tmp_path)
    assert "2 problem(s)" in str(caught.value)
    assert "latency.0.p50_ms" in str(caught.value)
    assert "method: Field required" in str(caught.value)


def test_importing_the_report_loads_neither_torch_nor_onnx_nor_a_template_engine():
    code = (
        "import sys, edgekd.report;"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
