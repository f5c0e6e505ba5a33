"""Every method through the whole command, on a few real digits: it trains, exports, quantises, is timed and packed."""

import json

import pytest
import torch
from safetensors.numpy import load_file

from edgekd.distill import load_recipe, recipe_names
from edgekd.pipeline import choosing
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


ON = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]
    ),
]


def _run(folder, device, **flags):
    train = {"epochs": 2, "batch_size": 64, "device": device}
    config = load_config(None, flags={**TASK, "train": train, **flags}, overrides=[])
    return distill(config, RunRequest(folder, "test"))


@pytest.fixture(autouse=True, scope="module")
def _each_student_is_predicted_once():
    """Nearly all runs choose the same student; to export it for its prediction takes as long as to train it."""
    predicted, predict = {}, choosing._latency

    def known(context, spec):
        if spec.digest not in predicted:
            predicted[spec.digest] = predict(context, spec)
        return predicted[spec.digest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "_latency", known)
        yield


@pytest.fixture(scope="module", params=ON)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def teacher(device, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    _run(folder, device, method="plain", teacher={"net": "resnet8-w16", "epochs": 8})
    return {"net": "resnet8-w16", "weights": str(folder / "teacher" / "teacher.safetensors")}


@pytest.fixture(scope="module")
def pretrained(device, teacher, tmp_path_factory):
    """Weights of a student to fine-tune."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    _run(folder, device, method="plain", teacher=teacher)
    return str(folder / "student" / "distilled-seed0.safetensors")


@pytest.fixture
def flags(request, teacher):
    """What a method needs beside a picture task and its teacher."""

    def of(method):
        if method == "modality-gram":
            towers = {"family": "towers", "depths": [3], "widths": [2], "max_share": 0.5}
            data = {"name": "digits-halves", "limit": 400}
            return {"data": data, "teacher": {"net": "towers3-w8", "epochs": 4}, "student": towers}
        if load_recipe(method).needs_pretrained_student:
            student = TASK["student"] | {"weights": request.getfixturevalue("pretrained")}
            return {"teacher": teacher, "student": student}
        return {"teacher": teacher}

    return of


OF_TEXTS = ("gkd-cls",)
"""Methods that are for texts alone: test_text.py runs them."""


@pytest.mark.parametrize("method", [*(name for name in recipe_names() if name not in OF_TEXTS), "mas+vid"])
def test_every_method_goes_from_data_to_a_packed_student(method, device, flags, tmp_path):
    folder = tmp_path / "run"
    report = _run(folder, device, method=method, **flags(method))
    assert report.method == method
    assert report.verdict is Verdict.PREDICTED_KEPT
    assert report.parity.is_ok
    assert {row.stage for row in report.curves if row.seed == 0} >= {"distilled"}
    assert (folder / "bundle" / "bundle.json").is_file()
    recorded = json.loads((folder / "run.json").read_text())["stages"]["distilled/seed0"]["result"]["model"]
    weights = load_file(folder / recorded["weights"]["path"])
    assert {name.split(".")[0] for name in weights} == {"net"}
