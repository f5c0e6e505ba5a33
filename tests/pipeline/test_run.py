"""A whole run: what it writes, that its figures are those of the files, that it resumes, that bad input stops it."""

import json
import shutil

import jsonschema
import numpy as np
import onnx
import onnx.reference
import pytest

from edgekd.core.artifacts import TrainedModel, from_json
from edgekd.core.errors import (
    BudgetExceeded,
    BuildError,
    ConfigError,
    ExportError,
    RunLocked,
    StorageError,
    TargetError,
    TrainingDiverged,
)
from edgekd.data import DataConfig, load_dataset
from edgekd.distill import load_recipe
from edgekd.models import load_model
from edgekd.pipeline.event_log import read_log
from edgekd.pipeline.ledger import Ledger
from edgekd.report import Verdict, read_report, schema_document
from edgekd.ship import read_golden, verify


def _started(events):
    return [event.stage for event in events if event.kind == "start"]


def test_a_run_writes_what_it_says(finished):
    folder, report, _ = finished
    for name in ("config.yaml", "run.json", "log.jsonl", "report.json", "report.html", "bundle/bundle.json"):
        assert (folder / name).is_file(), name
    for row in report.artifacts:
        file = folder / row.path
        assert file.stat().st_size == row.bytes, row.path
    jsonschema.validate(json.loads((folder / "report.json").read_text()), schema_document())
    assert read_report(folder) == report


def test_the_report_has_the_keys_that_programs_rely_on(finished):
    document = json.loads((finished[0] / "report.json").read_text())
    assert document["schema_version"] == 1
    assert document["verdict"] == "predicted kept"
    assert {"mean", "std", "seeds"} <= document["scores"]["distilled"].keys()
    assert {"teacher", "alone", "distilled"} == document["scores"].keys()
    for row in document["latency"]:
        assert {"target", "precision", "kind", "p50_ms", "p99_ms", "low_ms", "high_ms"} <= row.keys()
    for row in document["artifacts"]:
        assert {"kind", "path", "sha256", "bytes"} <= row.keys()


def test_accuracies_are_those_of_the_saved_weights_on_the_test_split(finished):
    folder, report, _ = finished
    dataset = load_dataset(DataConfig(name="digits", limit=400))
    images = dataset.test.inputs.gather(np.arange(len(dataset.test))).transpose(0, 3, 1, 2).astype(np.float32) / 255
    for role, summary in (("alone", report.scores.alone), ("distilled", report.scores.distilled)):
        for seed, value in summary.by_seed.items():
            model = from_json(TrainedModel, json.loads((folder / "student" / f"{role}-seed{seed}.json").read_text()))
            import torch

            with torch.no_grad():
                predicted = load_model(model)(torch.from_numpy(images)).argmax(dim=1).numpy()
            assert value == pytest.approx((predicted == dataset.test.labels).mean(), abs=1e-9)


def test_fidelity_is_counted_on_the_test_split_against_the_teacher(finished):
    import torch

    folder, report, _ = finished
    dataset = load_dataset(DataConfig(name="digits", limit=400))
    images = dataset.test.inputs.gather(np.arange(len(dataset.test))).transpose(0, 3, 1, 2).astype(np.float32) / 255

    def answers(path):
        model = from_json(TrainedModel, json.loads(path.read_text()))
        with torch.no_grad():
            return torch.softmax(load_model(model)(torch.from_numpy(images)).double(), dim=1).numpy()

    teacher = answers(folder / "teacher" / "teacher.json")
    assert [(row.role, row.seed) for row in report.fidelity] == [
        ("alone", 0),
        ("alone", 1),
        ("distilled", 0),
        ("distilled", 1),
    ]
    for row in report.fidelity:
        student = answers(folder / "student" / f"{row.role}-seed{row.seed}.json")
        assert row.agreement == pytest.approx((student.argmax(1) == teacher.argmax(1)).mean(), abs=1e-9)
        kl = (teacher * (np.log(teacher) - np.log(student))).sum(axis=1).mean()
        assert row.kl == pytest.approx(kl, rel=1e-4)


def test_the_shipped_onnx_scores_as_an_independent_evaluator_says(finished):
    folder, report, _ = finished
    dataset = load_dataset(DataConfig(name="digits", limit=400))
    images = dataset.val.inputs.gather(np.arange(len(dataset.val))).transpose(0, 3, 1, 2).astype(np.float32) / 255
    logits = onnx.reference.ReferenceEvaluator(str(folder / "onnx" / "student.fp32.onnx")).run(None, {"input": images})[
        0
    ]
    reference = next(v for v in report.precision.verdicts if v.precision == "fp32")
    assert reference.score == pytest.approx((logits.argmax(axis=1) == dataset.val.labels).mean(), abs=1e-9)


def test_the_student_that_ships_is_the_best_on_the_held_out_split(finished):
    folder, _, _ = finished
    models = [json.loads(path.read_text()) for path in sorted((folder / "student").glob("distilled-*.json"))]
    best = max(models, key=lambda model: model["scores"]["val"])
    manifest = json.loads((folder / "bundle" / "bundle.json").read_text())
    assert best["digest"] in manifest["provenance"]["parents"]


def test_the_bundle_is_intact_and_its_golden_answers_are_those_of_the_model(finished):
    folder, _, _ = finished
    verify(folder / "bundle")
    golden = read_golden(folder / "bundle" / "golden.npz")
    evaluator = onnx.reference.ReferenceEvaluator(str(folder / "onnx" / "student.fp32.onnx"))
    np.testing.assert_allclose(evaluator.run(None, {"input": golden.inputs})[0], golden.logits, rtol=1e-3, atol=1e-4)
    manifest = json.loads((folder / "bundle" / "bundle.json").read_text())
    assert manifest["health"]["budget_ms"] == {"p99": 5.0}
    assert manifest["targets"][0]["sm"] == 87
    assert manifest["provenance"]["recipe_sha256"] == load_recipe("multi-granularity").digest


def test_predictions_are_never_called_measurements(finished):
    _, report, _ = finished
    kinds = {(row.target, row.kind) for row in report.latency}
    assert kinds == {("jetson-orin", "predicted"), ("cpu", "measured")}
    assert report.verdict is Verdict.PREDICTED_KEPT
    assert any("no engine was built for jetson-orin: TensorRT builds on the device" in note for note in report.notes)


def test_the_same_command_again_keeps_every_stage(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    unused = ("student.keeps=[0.5]",)  # nothing is cut from the teacher
    report, events = run(tmp_path / "moved", *unused, target="jetson-orin", budget="p99<5ms")
    assert _started(events) == []
    assert report.scores == finished[1].scores
    assert report.created == finished[1].created


def test_a_changed_input_runs_only_what_depends_on_it(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    _, events = run(tmp_path / "moved", "max_drop=0.5", target="jetson-orin", budget="p99<5ms")
    assert "precision" in _started(events)
    assert not any(
        stage.startswith(("teacher", "alone", "distilled", "choose", "export")) for stage in _started(events)
    )


def test_another_method_keeps_the_teacher_and_the_students_alone(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    report, events = run(tmp_path / "moved", method="kd", target="jetson-orin", budget="p99<5ms")
    started = [stage for stage in _started(events) if "/seed" in stage or stage in ("teacher", "choose")]
    assert started == ["distilled/seed0", "distilled/seed1"]
    assert report.method == "kd"
    assert report.scores.alone == finished[1].scores.alone


def test_an_altered_artefact_is_made_again(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    victim = tmp_path / "moved" / "student" / "distilled-seed1.safetensors"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    _, events = run(tmp_path / "moved", target="jetson-orin", budget="p99<5ms")
    assert _started(events)[0] == "distilled/seed1"
    assert victim.read_bytes() == content


def test_the_log_tells_the_whole_run(finished):
    stages = {line.event.stage for line in read_log(finished[0] / "log.jsonl")}
    assert {"teacher", "choose", "alone/seed0", "distilled/seed1", "export", "precision", "latency", "bundle"} <= stages


def test_on_the_cpu_the_budget_is_held_against_a_measurement(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "kept")
    report, _ = run(tmp_path / "kept", target="cpu", budget="p99<1s")
    assert report.verdict is Verdict.KEPT
    assert report.budget.kind == "measured"
    assert report.latency[0].kind == "measured"
    assert report.latency[0].conditions["samples"] >= 300


def test_a_budget_of_memory_is_kept_by_a_smaller_student_and_judged_as_it_ships(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    folder = tmp_path / "moved"
    report, _ = run(folder, "seeds=1", "compare_alone=false", target="jetson-orin", budget="p99<5ms, memory<0.008MB")
    assert (finished[1].scores.distilled.net, report.scores.distilled.net) == ("resnet8-w4@8", "resnet8-w2@8")
    (limit,) = report.budget.resources
    model = onnx.load(folder / "onnx" / "student.fp32.onnx")
    weights = sum(int(np.prod(one.dims)) for one in model.graph.initializer if len(one.dims) > 1)
    maps = 2 * (2 * 8 * 8)  # the largest kernel reads and writes two channels of 8x8, and there are more than inputs
    size = {"fp32": 4, "fp16": 2, "int8": 1}[report.precision.chosen]
    assert (limit.metric, limit.unit) == ("memory", "MB")
    assert limit.judged == pytest.approx(size * (weights + maps) / 1e6, rel=0.25)
    assert report.verdict is Verdict.PREDICTED_KEPT
    with pytest.raises(BudgetExceeded, match=r"no student keeps memory<0.001MB on jetson-orin: .* memory<0.0"):
        run(folder, "seeds=1", target="jetson-orin", budget="memory<0.001MB")
    with pytest.raises(ConfigError, match="energy .* cannot be known on jetson-orin"):
        run(folder, target="jetson-orin", budget="energy<1mJ")


def test_an_impossible_budget_says_the_smallest_reachable_and_keeps_what_was_done(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    with pytest.raises(BudgetExceeded, match=r"below the launch floor of jetson-orin"):
        run(tmp_path / "moved", target="jetson-orin", budget="p50<0.000001ms")
    with pytest.raises(
        BudgetExceeded, match=r"no student keeps p50<0.06ms on jetson-orin: the smallest reachable is p50<"
    ):
        run(tmp_path / "moved", target="jetson-orin", budget="p50<0.06ms")
    assert read_report(tmp_path / "moved").verdict is Verdict.PREDICTED_KEPT


def test_what_cannot_be_chosen_is_refused_before_the_teacher_is_trained(run, tmp_path):
    for overrides, flags, error in (
        (["student.depths=[9]"], {}, ConfigError),
        (["student.widths=[64]"], {}, ConfigError),
        ([], {"budget": "p50<0.000001ms"}, BudgetExceeded),
    ):
        with pytest.raises(error):
            run(tmp_path / "run", *overrides, target="jetson-orin", **flags)
    assert not (tmp_path / "run" / "teacher").exists()


def test_without_comparison_only_distilled_students_are_trained(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    report, _ = run(tmp_path / "moved", "compare_alone=false", target="jetson-orin")
    assert report.scores.alone is None
    assert report.gain is None
    assert report.verdict is Verdict.NO_BUDGET


def test_a_given_teacher_is_loaded_checked_and_not_trained(finished, run, tmp_path):
    weights = finished[0] / "teacher" / "teacher.safetensors"
    report, events = run(
        tmp_path / "run",
        f"teacher.weights={weights}",
        "seeds=1",
        "compare_alone=false",
        "train.epochs=1",
        target="jetson-orin",
    )
    assert report.scores.teacher.mean == finished[1].scores.teacher.mean
    assert not any(event.kind == "progress" and event.stage.startswith("teacher") for event in events)


@pytest.mark.parametrize(
    "overrides, flags, error, fragment",
    [
        ([], {"target": "jetson-orn"}, ConfigError, "did you mean jetson-orin"),
        ([], {"target": "cpu", "budget": "p98<8ms"}, ConfigError, "p98"),
        ([], {"target": "cpu", "method": "maz"}, ConfigError, "unknown method 'maz'"),
        (["also_build=[rtx-4091]"], {"target": "cpu"}, ConfigError, "did you mean rtx-4090"),
        (["teacher.weights=none.pth"], {"target": "cpu"}, ConfigError, "no such file"),
        (["student.widths=[64]"], {"target": "cpu"}, ConfigError, "smallest, resnet8-w64@8, has"),
        (
            ["train.lr=1e9", "train.schedule=constant"],
            {"target": "cpu"},
            TrainingDiverged,
            "training diverged in stage",
        ),
    ],
)
def test_bad_input_is_one_clear_error(run, tmp_path, overrides, flags, error, fragment):
    with pytest.raises(error, match=fragment):
        run(tmp_path / "run", *overrides, **flags)
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_teacher_with_other_classes_is_refused(finished, run, tmp_path):
    from edgekd.core.artifacts import NetSpec
    from edgekd.models import build, save_weights

    spec = NetSpec("resnet", 8, 8, 8, 1, 7, (0.3,), (0.2,), {"shortcut": "A"})
    save_weights(build(spec), tmp_path / "seven.safetensors", {})
    with pytest.raises(ConfigError, match=r"linear"):
        run(tmp_path / "run", f"teacher.weights={tmp_path / 'seven.safetensors'}", target="cpu")


_TEACHER_FILE = """
import pathlib
import torch
from edgekd.core.artifacts import NetSpec
from edgekd.models import build, load_weights

def make(num_classes):
    net = build(NetSpec("resnet", 8, 8, 8, 1, num_classes, (0.0,), (1.0,), {{"shortcut": "A"}}))
    {body}
    return net
"""


def _python_teacher(tmp_path, body):
    (tmp_path / "mine.py").write_text(_TEACHER_FILE.format(body=body))
    return f"teacher.net={tmp_path / 'mine.py'}:make"


def test_a_teacher_from_a_python_file_is_used_as_it_comes(finished, run, tmp_path):
    weights = finished[0] / "teacher" / "teacher.safetensors"
    teacher = _python_teacher(tmp_path, f"load_weights(net, pathlib.Path({str(weights)!r}))")
    report, _ = run(tmp_path / "run", teacher, "seeds=1", "compare_alone=false", "train.epochs=1", target="jetson-orin")
    assert report.scores.teacher.net == "python:mine.py:make"
    assert report.scores.teacher.mean == pytest.approx(finished[1].scores.teacher.mean, abs=0.02)


def test_a_teacher_that_knows_nothing_is_refused(run, tmp_path):
    teacher = _python_teacher(tmp_path, "torch.nn.init.zeros_(net[-1].linear.weight)")
    with pytest.raises(ConfigError, match=r"one answer to everything reaches top-1 10.00 %: its weights"):
        run(tmp_path / "run", teacher, target="jetson-orin")


def test_a_timm_teacher_without_weights_is_refused(run, tmp_path, monkeypatch):
    from edgekd.pipeline import networks

    real = networks.load_teacher

    def fake(ref, **facts):
        import dataclasses

        found, module = real("resnet8-w8", **facts)
        return dataclasses.replace(found, family="timm", options={"model": "resnet18"}), module

    monkeypatch.setattr(networks, "load_teacher", fake)
    with pytest.raises(ConfigError, match="comes without weights, none are downloaded"):
        run(tmp_path / "run", target="cpu")


def test_a_precision_that_the_target_lacks_is_not_considered(finished, run, tmp_path):
    shutil.copytree(finished[0], tmp_path / "moved")
    report, _ = run(tmp_path / "moved", target="jetson-nano")
    assert {verdict.precision for verdict in report.precision.verdicts} == {"fp32", "fp16"}
    assert "int8 was not considered: jetson-nano does not run it at speed" in report.notes


def test_a_precision_that_cannot_be_made_is_refused_with_its_reason(finished, run, tmp_path, monkeypatch):
    from edgekd.pipeline import lowering

    def overflowing(*arguments, **options):
        raise ExportError("fp16 overflows: 3 of 80 logits are NaN or infinite")

    shutil.copytree(finished[0], tmp_path / "moved")
    monkeypatch.setattr(lowering, "to_fp16", overflowing)
    report, _ = run(tmp_path / "moved", "max_drop=0.4", target="jetson-orin")
    (refused,) = (verdict for verdict in report.precision.verdicts if verdict.precision == "fp16")
    assert not refused.accepted
    assert "fp16 overflows: 3 of 80 logits" in refused.reason
    assert "fp16" not in {row.precision for row in report.latency}


def test_a_target_that_cannot_be_predicted_is_refused_before_anything_is_trained(run, tmp_path):
    with pytest.raises(TargetError, match="cannot be predicted"):
        run(tmp_path / "run", target="drive-thor")
    assert not (tmp_path / "run").exists()


def test_two_runs_in_one_folder_are_refused(run, tmp_path):
    with Ledger.open(tmp_path / "run"), pytest.raises(RunLocked, match="in use by process"):
        run(tmp_path / "run", target="cpu")


def test_a_folder_of_other_things_is_refused(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(StorageError, match="not empty"):
        run(tmp_path, target="cpu")


class _Refusing:
    def build(self, model, folder, options):
        raise BuildError("the builder refused")


def test_a_builder_that_refuses_fails_the_run_for_the_target_and_is_noted_elsewhere(
    finished, run, tmp_path, monkeypatch
):
    from edgekd.pipeline import building

    shutil.copytree(finished[0], tmp_path / "moved")
    monkeypatch.setitem(building.BACKENDS._items, "tensorrt_rtx", _Refusing())
    report, _ = run(tmp_path / "moved", "also_build=[rtx-3090]", target="jetson-orin")
    assert "no engine was built for rtx-3090: the builder refused" in report.notes
    with pytest.raises(BuildError, match="the builder refused"):
        run(tmp_path / "moved", target="rtx-3090")


def test_engines_are_really_built_for_rtx_cards_and_explained_where_they_cannot_be(finished, run, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    shutil.copytree(finished[0], tmp_path / "moved")
    report, _ = run(tmp_path / "moved", "also_build=[rtx-3090]", target="h200", budget="p99<1s")
    built = [row for row in report.artifacts if row.kind.startswith("engine")]
    assert [row.kind.split()[:3] for row in built] == [["engine", "tensorrt_rtx", "sm_86"]]
    assert (tmp_path / "moved" / built[0].path).read_bytes()[:4] == b"vtrt"
    assert any(note.startswith("no engine was built for h200:") and "sm_90" in note for note in report.notes)


def test_layers_and_qat_are_candidates_with_their_reasons(finished, run, tmp_path):
    folder, _, _ = finished
    copy = shutil.copytree(folder, tmp_path / "run")
    asked = ("precision.per_layer=true", "precision.qat=true", "precision.qat_epochs=2", "max_drop=0.0")
    report, _ = run(copy, *asked, target="jetson-orin", budget="p99<5ms")
    verdicts = {(one.precision, one.flavour, one.variant): one for one in report.precision.verdicts}
    trained = verdicts["int8", "tensorrt", "QAT"]
    plain = verdicts["int8", "tensorrt", ""]
    assert trained.score is not None
    assert trained.p50_ms == pytest.approx(plain.p50_ms, rel=0.2)
    layers = report.precision.layers
    assert {row.operator for row in layers.rows} == {"Conv", "Gemm"}
    assert layers.kind == "predicted"
    assert layers.front[0].kept_float == ()
    assert layers.front[0].score == pytest.approx(plain.score)
    assert (copy / "onnx" / "student.int8-qat.onnx").is_file()
    page = (copy / "report.html").read_text()
    assert "Layer by layer" in page
    assert "predicted, not measured" in page
    mixed = verdicts.get(("int8", "tensorrt", "layer by layer"))
    if mixed is not None:
        assert mixed.score >= plain.score
        assert mixed.p50_ms > plain.p50_ms
