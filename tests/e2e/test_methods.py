"""Every method through the whole command, on a few real digits: it trains, exports, quantises, is timed and packed."""

import json

import pytest
from safetensors.numpy import load_file

from edgekd.distill import recipe_names
from edgekd.pipeline.config import load_config
from edgekd.pipeline.run import RunRequest, distill
from edgekd.report import Verdict

TASK = {
    "data": {"name": "digits", "limit": 400},
    "student": {"family": "resnet", "depths": [8], "widths": [4], "max_share": 0.5},
    "target": "jetson-orin",
    "budget": "p99<5ms",
    "seeds": 1,
    "compare_alone": False,
    "calibration_size": 32,
    "also_build": [],
}


def _run(folder, **flags):
    train = {"epochs": 2, "batch_size": 64, "device": "cpu", **flags.pop("train", {})}
    config = load_config(None, flags={**TASK, "train": train, **flags}, overrides=[])
    return distill(config, RunRequest(folder, "test"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    _run(folder, method="plain", teacher={"net": "resnet8-w16", "epochs": 8})
    return {"net": "resnet8-w16", "weights": str(folder / "teacher" / "teacher.safetensors")}


@pytest.mark.parametrize("method", [*recipe_names(), "mas+vid"])
def test_every_method_goes_from_data_to_a_packed_student(method, teacher, tmp_path):
    folder = tmp_path / "run"
    report = _run(folder, method=method, teacher=teacher)
    assert report.method == method
    assert report.verdict is Verdict.PREDICTED_KEPT
    assert report.parity.is_ok
    assert {row.stage for row in report.curves if row.seed == 0} >= {"distilled"}
    assert (folder / "bundle" / "bundle.json").is_file()
    recorded = json.loads((folder / "run.json").read_text())["stages"]["distilled/seed0"]["result"]["model"]
    weights = load_file(folder / recorded["weights"]["path"])
    assert {name.split(".")[0] for name in weights} == {"net"}
