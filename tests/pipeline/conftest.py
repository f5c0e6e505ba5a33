"""A whole run on a few digits, small enough to be made once for all tests."""

from pathlib import Path

import pytest

from edgekd.pipeline.config import load_config
from edgekd.pipeline.run import RunRequest, distill

SMALL = {
    "data": {"name": "digits", "limit": 400},
    "teacher": {"net": "resnet8-w8", "epochs": 4},
    "student": {"family": "resnet", "depths": [8], "widths": [2, 4], "max_share": 0.5},
    "train": {"epochs": 2, "batch_size": 32, "device": "cpu"},
    "seeds": 2,
    "calibration_size": 64,
    "also_build": [],
}


@pytest.fixture(scope="session")
def config():
    def make(*overrides, **flags):
        return load_config(None, flags={**SMALL, **flags}, overrides=overrides)

    return make


@pytest.fixture(scope="session")
def run(config):
    """Run the pipeline in a folder and return its report and the events."""

    def go(folder: Path, *overrides, fresh=False, **flags):
        events = []
        report = distill(config(*overrides, **flags), RunRequest(folder, "edgekd distill", fresh, events.append))
        return report, events

    return go


@pytest.fixture(scope="session")
def finished(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    report, events = run(folder, target="jetson-orin", budget="p99<5ms")
    return folder, report, events
