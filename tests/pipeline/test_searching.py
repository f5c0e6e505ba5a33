"""The whole search on a few digits: for a board by prediction, on this CPU by measurement."""

import json

import pytest
import torch

from edgekd.core.budget import parse_budget
from edgekd.core.errors import BudgetExceeded, ConfigError, StorageError
from edgekd.core.events import Event
from edgekd.data import DataConfig, load_dataset
from edgekd.distill import Outcome, evaluate
from edgekd.models import build, load_model
from edgekd.pipeline.config import load_config
from edgekd.pipeline.cpu_calibration import calibration_points
from edgekd.pipeline.event_log import read_log
from edgekd.pipeline.found import read_found, start_of_found
from edgekd.pipeline.run import RunRequest
from edgekd.pipeline.search_config import SpaceConfig
from edgekd.pipeline.search_report import document_of
from edgekd.pipeline.search_setting import SearchRequest, setting_of
from edgekd.pipeline.searching import planned_space, search
from edgekd.pipeline.starting import settings_of
from edgekd.pipeline.student_space import space_for
from edgekd.report import search_page

pytest.importorskip("optuna", reason="extra search is not installed")
pytest.importorskip("torch_pruning", reason="extra prune is not installed")

SMALL = {
    "data": {"name": "digits", "limit": 300},
    "teacher": {"net": "resnet8-w8", "epochs": 2},
    "student": {"max_share": 0.7},
    "train": {"batch_size": 32, "device": "cpu"},
    "search": {
        "space": {
            "families": ["resnet", "pruned"],
            "depths": {"resnet": [8]},
            "widths": {"resnet": [2, 4, 6]},
            "reduces": [1],
            "keeps": [0.25, 0.5],
        },
        "trials": 3,
        "rungs": [1, 2],
        "finalists": 2,
    },
}


def _config(*overrides, **flags):
    return load_config(None, flags={**SMALL, **flags}, overrides=overrides)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    config = _config(target="jetson-orin", budget="p99<1ms, memory<1MB")
    return config, search(config, RunRequest(folder, "edgekd search")), folder


def test_a_search_returns_students_whose_upper_end_keeps_the_budget(searched):
    config, result, _ = searched
    budget = parse_budget(config.budget)
    assert 1 <= len(result.finals.finalists) <= 2
    for finalist in result.finals.finalists:
        assert not budget.misses(finalist.cost.figures)
        assert finalist.cost.latency.kind == "predicted"
        assert finalist.record.is_counted
    assert sum(record.is_counted for record in result.records) == 3


def test_the_students_files_build_the_network_and_go_on_from_its_short_training(searched):
    config, result, _ = searched
    dataset = load_dataset(config.data)
    trained = [one for one in result.finals.finalists if one.record.state == "trained"]
    assert trained
    for finalist in trained:
        found = read_found(finalist.file)
        network = build(found.spec)
        network.load_state_dict(start_of_found(found))
        assert found.spec.name == finalist.record.cost["name"]
        best = max(finalist.record.rungs.values())  # every epoch is a rung, and a training returns its best
        assert evaluate(network.eval(), dataset.val).score == pytest.approx(best)


def test_pruned_students_inherit_the_trained_teachers_weights(searched):
    config, result, _ = searched
    pruned = [one for one in result.records if one.point["family"] == "pruned"]
    teacher = load_model(result.teacher)
    space = space_for(config.search.space, load_dataset(config.data), result.teacher.spec)
    candidates = setting_of(SearchRequest.of(config), (result.teacher.spec, teacher), None, space).candidates
    start = candidates.start_of(pruned[0].point)
    assert torch.equal(start["net.linear.weight"], teacher.net.linear.weight)
    assert set(start) == set(build(candidates.at(pruned[0].point).spec).state_dict())


def test_students_cut_from_the_teacher_train_at_a_tenth_of_the_rate(searched, monkeypatch):
    config, result, _ = searched
    asked = SearchRequest.of(config)
    teacher = result.teacher.spec, load_model(result.teacher)
    space = space_for(config.search.space, asked.dataset, teacher[0])
    candidates = setting_of(asked, teacher, None, space).candidates
    rates = {}

    def told(_recipe, *, student, settings, options, **_more):
        rates[student.family] = settings.student_lr
        options.listener(Event("progress", "search", "", values={"val_score": 0.5}))
        return Outcome(build(student), ())

    monkeypatch.setattr("edgekd.pipeline.candidates.run_recipe", told)
    for family in space.families:
        candidates.train(next(iter(family.points())), lambda _epoch, _score: False)
    assert rates == {"resnet": None, "pruned": 0.1}
    own = settings_of(config.train.model_copy(update={"student_lr": 1.0}), candidates.at(_pruned_point(space)).spec)
    assert own.student_lr == 1.0


def _pruned_point(space):
    return next(point for point in space.points() if point["family"] == "pruned")


@pytest.mark.parametrize("inherit", [True, False])
def test_other_students_begin_with_the_teachers_first_layers_unless_told_not_to(searched, inherit):
    config, result, _ = searched
    config = config.model_copy(update={"search": config.search.model_copy(update={"inherit": inherit})})
    asked = SearchRequest.of(config)
    as_wide = SpaceConfig(families=("resnet",), depths={"resnet": (8,)}, widths={"resnet": (8,)}, reduces=(1,))
    space = space_for(as_wide, asked.dataset, result.teacher.spec)  # Only what has the teacher's shape fits.
    teacher = (result.teacher.spec, load_model(result.teacher))
    candidates = setting_of(asked, teacher, None, space).candidates
    starts = [candidates.start_of(point) for point in space.points() if point["family"] == "resnet"]
    assert any(starts) is inherit


def test_the_same_command_goes_on_and_tries_nothing_again(searched):
    config, result, folder = searched
    again = search(config, RunRequest(folder, "edgekd search"))
    assert len(again.records) == len(result.records)
    assert [one.cost.name for one in again.finals.finalists] == [one.cost.name for one in result.finals.finalists]


def test_trials_of_worker_processes_are_told_once_with_their_figures(tmp_path):
    search_config = {**SMALL["search"], "workers": 2, "trials": 2, "rungs": [1]}
    config = _config("trackers=[]", target="jetson-orin", budget="p99<1ms", search=search_config)
    result = search(config, RunRequest(tmp_path, "edgekd search"))
    told = [line.event for line in read_log(tmp_path / "log.jsonl") if line.event.stage == "search"]
    assert [event.kind for event in told] == ["start", *["progress"] * len(result.records), "end"]
    figures = {event.values["trial"]: event.values for event in told[1:-1]}
    for record in result.records:
        assert figures[record.number]["p99"] == record.cost["figures"]["p99"]
        assert figures[record.number].get("score") == record.score


def test_another_budget_or_space_needs_another_name(searched):
    _, _, folder = searched
    with pytest.raises(ConfigError, match="budget was p99<1ms, memory<1MB, now it is p99<2ms"):
        search(_config(target="jetson-orin", budget="p99<2ms"), RunRequest(folder, ""))
    other = _config("search.space.keeps=[0.5]", target="jetson-orin", budget="p99<1ms, memory<1MB")
    with pytest.raises(ConfigError, match="space was"):
        search(other, RunRequest(folder, ""))


def test_the_report_is_plain_data_and_a_page_with_the_front(searched):
    config, result, _ = searched
    document = json.loads(json.dumps(document_of(config, result), allow_nan=False))
    page = search_page(document)
    assert document["front"] and len(document["trials"]) == len(result.records)
    assert page.count("<circle") >= sum(record.is_counted for record in result.records)
    assert "predicted, not measured" in page and "http" not in page.replace("http-equiv", "")
    assert all(finalist["file"] in page for finalist in document["finalists"])
    assert f"--student {document['finalists'][0]['file']}" in document["next"]


def test_an_unreachable_budget_ends_before_anything_is_trained(tmp_path):
    with pytest.raises(BudgetExceeded, match="the floor on jetson-orin is p99<"):
        search(_config(target="jetson-orin", budget="p99<1us"), RunRequest(tmp_path / "run", ""))
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.parametrize(
    "flags, error",
    [({"budget": "energy<1mJ"}, ConfigError), ({"search": {"storage": "sqlite:////no/x"}}, StorageError)],
)
def test_a_budget_nobody_can_judge_or_a_lost_storage_is_refused_before_anything_is_trained(tmp_path, flags, error):
    config = _config(target="cpu", **{**flags, "search": {**SMALL["search"], **flags.get("search", {})}})
    with pytest.raises(error):
        search(config, RunRequest(tmp_path, "edgekd search"))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_plan_costs_the_space_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space, profile = planned_space(_config(target="jetson-orin", budget="p99<1ms"))
    assert len(space) == 3 + 4 and {row.family for row in profile.rows} == {"resnet", "pruned"}
    assert planned_space(_config(target="cpu"))[1] is None
    assert list(tmp_path.iterdir()) == []


def test_on_this_cpu_every_student_returned_was_measured_or_is_refused(tmp_path):
    config = _config("search.calibration=6", "search.trials=2", target="cpu", budget="p99<1s, memory<1MB")
    result = search(config, RunRequest(tmp_path, ""))
    assert all(row.cost.latency.kind == "predicted" for row in result.profile.rows)
    for finalist in result.finals.finalists:
        assert finalist.cost.latency.kind == "measured" and finalist.cost.latency.p99_ms < 1000
        assert finalist.cost.latency.conditions["provider"] == "CPUExecutionProvider"
    assert len(result.finals.gauge.model.points) >= 3 + len(result.finals.finalists)


@pytest.fixture(scope="module")
def digits():
    return load_dataset(DataConfig(name="digits", limit=300))


def _space(digits, **changes):
    return space_for(SpaceConfig(**changes), digits, _teacher(digits))


def _teacher(digits):
    from edgekd.models import spec_for

    return spec_for("resnet", in_channels=1, num_classes=10, resolution=8, mean=digits.mean, std=digits.std)


def test_by_default_every_family_that_fits_the_task_is_searched(digits):
    assert [one.family for one in _space(digits).families] == [
        "mobilenetv2", "repvgg", "resnet", "vgg", "wrn", "pruned",
    ]  # fmt: skip
    assert all("reduce" not in point or point["reduce"] == "1" for point in _space(digits).points())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"families": ("resnett",)}, "unknown network family 'resnett'; did you mean"),
        ({"families": ("fcn",)}, "students of family fcn do not fit classification of pictures"),
        ({"families": ("bert",)}, "students of family bert do not fit"),
        ({"families": ("resnet",), "depths": {"vgg": (8,)}}, "sizes of vgg"),
        ({"families": ("resnet",), "depths": {"resnet": (9,)}}, "9 is not 6n\\+2"),
        ({"families": ("resnet",), "widths": {"resnet": ()}}, "the search space is empty: resnet.width"),
        ({"families": ("mobilenetv2",), "kernels": (7,)}, "the search space is empty: mobilenetv2.kernel"),
        ({"families": ("resnet",), "reduces": (4,)}, "the search space is empty: resnet.reduce"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(digits, changes, message):
    with pytest.raises(ConfigError, match=message):
        _space(digits, **changes)


def test_calibration_spreads_over_sizes_and_avoids_what_is_too_large(digits):
    space = _space(digits, families=("resnet", "vgg", "pruned"))

    def macs(point):
        return point[f"{point['family']}.width"] ** 2 * point[f"{point['family']}.depth"]

    points = calibration_points(space, macs, count=10, max_macs=5000, seed=0)
    assert len(points) == 10 and {point["family"] for point in points} == {"resnet", "vgg"}
    assert points == calibration_points(space, macs, count=10, max_macs=5000, seed=0)
    few = calibration_points(space, macs, count=10, max_macs=1, seed=0)
    assert len(few) == 10


def test_files_of_students_that_are_missing_strange_or_altered_are_refused(searched, tmp_path):
    with pytest.raises(ConfigError, match="no such file; edgekd search writes them"):
        read_found(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"kind": "recipe"}')
    with pytest.raises(ConfigError, match="is no student that edgekd search found"):
        read_found(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(StorageError, match="cannot be read"):
        read_found(tmp_path / "broken.json")
    _, result, _ = searched
    document = json.loads(result.finals.finalists[0].file.read_text())
    document["start"] = {"path": "gone.safetensors", "sha256": "0", "size_bytes": 1}
    (tmp_path / "altered.json").write_text(json.dumps(document))
    with pytest.raises(StorageError, match="is missing or was altered"):
        read_found(tmp_path / "altered.json")


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("p99<1ms", ""),
        (None, ""),
        ("p99<1ms, memory<2MB", ""),
        ("p99<1ms, energy<2mJ, memory<1MB", " --budget 'p99<1ms, memory<1MB'"),
        ("energy<2mJ", " --set budget=null"),
    ],
)
def test_the_next_command_has_the_settings_of_the_search_and_what_distill_judges(searched, budget, words):
    config, result, folder = searched
    text = document_of(config.model_copy(update={"budget": budget}), result)["next"]
    first = f"edgekd distill {folder}/config.yaml --student {folder}/finalists/student1.json"
    assert text == f"{first} --teacher-weights {folder}/teacher/teacher.safetensors{words}"
    assert load_config(folder / "config.yaml", flags={}, overrides=[]) == config
