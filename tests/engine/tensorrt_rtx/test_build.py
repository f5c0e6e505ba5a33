import json
from pathlib import Path

import pytest

from edgekd.engine import BuildOptions
from edgekd.engine.plan_job import job_for
from edgekd.engine.plan_network import BuilderLog, BuildRefused
from edgekd.engine.plan_process_child import run_build_process
from edgekd.engine.tensorrt_rtx.build import build_plan
from edgekd.targets import get_target

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="needs the package tensorrt_rtx (extra rtx)")


@pytest.fixture
def job(onnx_model, tmp_path):
    def make(capability):
        options = BuildOptions(get_target("rtx-3090"))
        places = {"plan": tmp_path / "plan", "report": tmp_path / "report.json"}
        return job_for(onnx_model("fp32"), options, **places, compute_capability=capability)

    return make


def test_unknown_capabilities_are_refused(job):
    with pytest.raises(BuildRefused, match=r"this TensorRT-RTX \(.*\) knows no compute capability SM87"):
        build_plan(tensorrt_rtx, job("SM87"), BuilderLog(), lambda *step: None)


def test_a_process_reports_refusals_and_unreadable_logs(job, capsys):
    wanted = job("SM87")
    assert run_build_process("tensorrt_rtx", build_plan, wanted.arguments()) == 1
    report = json.loads(Path(wanted.report).read_text())
    assert report["status"] == "refused"
    assert "no compute capability SM87" in report["errors"][0]
    assert not Path(wanted.plan).exists()


def test_a_build_whose_log_is_not_understood_is_refused(job, monkeypatch):
    monkeypatch.setattr("edgekd.engine.tensorrt_rtx.build.make_logger", lambda trt, log, echo: trt.Logger())
    wanted = job("SM86")
    assert run_build_process("tensorrt_rtx", build_plan, wanted.arguments()) == 1
    assert "has no list of layers" in json.loads(Path(wanted.report).read_text())["errors"][0]
