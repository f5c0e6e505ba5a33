"""`edgekd distill` on each kind of task and on two modalities at the smallest setting: all stages, the right metric."""

import json

import numpy as np
import onnx
import onnx.reference
import pytest
from sklearn.metrics import accuracy_score, jaccard_score, r2_score

from edgekd.cli.report_text import report_text
from edgekd.core.errors import ConfigError
from edgekd.data import DataConfig, load_dataset
from edgekd.pipeline.config import load_config
from edgekd.pipeline.run import RunRequest, distill
from edgekd.ship import read_golden, verify

SETTINGS = {
    "digits-scenes": {"teacher": "fcn8-w8", "student": {"family": "fcn", "depths": [8], "widths": [4]}},
    "digits-pose": {"teacher": "resnet8-w8", "student": {"family": "resnet", "depths": [8], "widths": [4]}},
    "digits-halves": {"teacher": "towers3-w8", "student": {"family": "towers", "depths": [3], "widths": [4]}},
}
OVERRIDES = (
    "train.epochs=2",
    "teacher.epochs=2",
    "train.device=cpu",
    "calibration_size=32",
    "also_build=[]",
    "seeds=1",
)


def _judged(name, outputs, labels):
    if name == "digits-pose":
        return r2_score(labels, outputs[:, :2])
    decided = outputs.argmax(axis=1)
    if name == "digits-halves":
        return accuracy_score(labels, decided)
    return jaccard_score(labels.ravel(), decided.ravel(), average="macro")


def _config(name, *overrides, **flags):
    wanted = SETTINGS[name]
    given = {
        "data": {"name": name, "limit": 160},
        "teacher": {"net": wanted["teacher"]},
        "student": {**wanted["student"], "max_share": 0.9},
        "target": "cpu",
    }
    return load_config(None, flags=given | flags, overrides=[*OVERRIDES, *overrides])


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    report = distill(_config(request.param), RunRequest(folder, "edgekd distill"))
    return request.param, folder, report


def test_the_score_that_decides_is_that_of_the_onnx_model_by_scikit_learn(finished):
    name, folder, report = finished
    dataset = load_dataset(DataConfig(name=name, limit=160))
    pixels = dataset.val.inputs.gather(np.arange(len(dataset.val))).transpose(0, 3, 1, 2).astype(np.float32) / 255
    evaluator = onnx.reference.ReferenceEvaluator(str(folder / "onnx" / "student.fp32.onnx"))
    outputs = evaluator.run(None, {"input": pixels})[0]
    reference = next(verdict for verdict in report.precision.verdicts if verdict.precision == "fp32")
    assert reference.score == pytest.approx(_judged(name, outputs, dataset.val.labels), abs=1e-3)
    names = {verdict.precision: verdict.score for verdict in report.precision.verdicts}
    assert set(names) == {"fp32", "fp16", "int8"}
    assert all(score is not None for score in names.values())


def test_the_report_calls_the_metric_by_its_name(finished):
    name, folder, report = finished
    metric = {"digits-scenes": "mean IoU", "digits-pose": "R²", "digits-halves": "top-1"}[name]
    assert report.task.metric == metric
    assert json.loads((folder / "report.json").read_text())["task"]["metric"] == metric
    page, text = (folder / "report.html").read_text(encoding="utf-8"), report_text(report)
    assert f"Distilled {metric}" in page
    assert metric in text.splitlines()[0]
    assert "accuracy" not in page.lower() + text.lower()
    told = [json.loads(line)["message"] for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(f"held-out {metric} " in message for message in told)
    if name == "digits-pose":
        score = f"{report.scores.distilled.mean:.3f}".replace("-", "\N{MINUS SIGN}")
        assert score in page
        assert " points" not in text


def test_networks_are_the_same_in_torch_and_onnx_and_agree_in_the_tasks_own_measure(finished):
    name, _, report = finished
    assert report.parity.is_ok
    assert report.parity.agreement == pytest.approx(1.0, abs=1e-4)
    assert {row.role for row in report.fidelity} == {"alone", "distilled"}
    measure = {"digits-scenes": "same class of a pixel", "digits-pose": "R² of means", "digits-halves": "same class"}[
        name
    ]
    assert report.task.agreement == measure


def test_the_bundle_holds_answers_of_the_tasks_form(finished):
    name, folder, report = finished
    verify(folder / "bundle")
    golden = read_golden(folder / "bundle" / "golden.npz")
    form = {"digits-scenes": (8, 11, 24, 24), "digits-pose": (8, 4), "digits-halves": (8, 10)}[name]
    assert golden.logits.shape == form
    evaluator = onnx.reference.ReferenceEvaluator(str(folder / "onnx" / "student.fp32.onnx"))
    np.testing.assert_allclose(evaluator.run(None, {"input": golden.inputs})[0], golden.logits, rtol=1e-3, atol=1e-3)
    metrics = json.loads((folder / "bundle" / "bundle.json").read_text())["provenance"]["metrics"]
    key = {"digits-scenes": "mean_iou", "digits-pose": "r_squared", "digits-halves": "accuracy"}[name]
    assert metrics[f"{key}_test"] == report.scores.distilled.by_seed[0]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "digits-scenes",
            "student.family=resnet",
            "segmentation needs an answer for each pixel",
        ),
        ("digits-pose", "student.family=fcn", "regression needs an answer for each input"),
        ("digits-scenes", "teacher.net=resnet8-w8", r"so \[2, 11, 24, 24\] was expected"),
        ("digits-scenes", "method=dkd", "dkd reads one row of logits an input, here every pixel has one"),
        ("digits-pose", "method=dkd", "dkd reads logits of classes, this task is regression"),
        ("digits-halves", "student.options.modalities='3'", "2 input channels cannot be divided into 3 equal groups"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_before_anything_is_trained(tmp_path, name, change, message):
    with pytest.raises(ConfigError, match=message):
        distill(_config(name, change), RunRequest(tmp_path / "run", "edgekd distill"))
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_presets_choose_networks_and_methods_that_fit(name):
    from edgekd.distill import check_recipe, load_recipe
    from edgekd.models import build, load_teacher, spec_for

    config = load_config(None, flags={"data": {"name": name}}, overrides=[])
    dataset = load_dataset(config.data)
    facts = {
        "in_channels": dataset.in_channels, "num_classes": dataset.task.num_outputs, "resolution": dataset.resolution,
        "mean": dataset.mean, "std": dataset.std,
    }  # fmt: skip
    spec, _ = load_teacher(config.teacher.net, **facts, weights=None, is_dense=dataset.task.is_dense)
    student = spec_for(config.student.family, depth=config.student.depths[0], width=config.student.widths[-1], **facts)
    check_recipe(
        load_recipe(config.method), student=student, teacher=(spec, build(spec)), dataset=dataset, batch_size=32
    )
