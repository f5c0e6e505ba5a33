"""A published ResNet-56 teaches a narrower ResNet on real photographs, the whole way, on this CPU."""

import json

import pytest

from edgekd.pipeline.config import load_config
from edgekd.pipeline.run import RunRequest, distill
from edgekd.report import Verdict


@pytest.mark.slow
def test_resnet56_teaches_a_narrower_resnet_end_to_end(shared_data, tmp_path):
    flags = {
        "data": {"name": "cifar-strips", "path": str(shared_data / "images" / "cifar10_small.zip"), "limit": 320},
        "teacher": {
            "net": "resnet56",
            "weights": str(shared_data / "teachers" / "resnet56-4bfd9763.th"),
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "student": {"depths": [8], "widths": [4, 8]},
        "train": {"epochs": 1, "device": "cpu"},
        "target": "cpu",
        "budget": "p99<1s",
        "method": "mag+vid",
        "seeds": 1,
        "compare_alone": False,
        "also_build": [],
    }
    report = distill(load_config(None, flags=flags, overrides=[]), RunRequest(tmp_path / "run", "test"))
    assert report.verdict is Verdict.KEPT
    assert report.scores.teacher.mean > 0.88
    assert report.scores.distilled.net == "resnet8-w8@32"
    teacher, student = report.sizes
    assert student.macs < 0.05 * teacher.macs
    assert report.parity.is_ok
    considered = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["choose"]["result"]["considered"]
    assert [item["kind"] for item in considered] == ["measured"] * len(considered)
