"""The methods study: rows that are there stay, what fails is a row, a slice ends, the table shows losers too."""

import csv
import dataclasses
import math
import sys
import time
from argparse import Namespace

import numpy as np
import pytest

from edgekd.data import DataConfig, load_dataset


@pytest.fixture
def methods(bench, tmp_path, monkeypatch):
    module = bench("methods")
    monkeypatch.setattr(module, "ProcessPoolExecutor", _Here)
    return module


class _Here:
    """Runs what is submitted at once, in this process."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*arguments))
        return future


@pytest.fixture
def terms(methods, tmp_path):
    state = str(tmp_path / "state")
    return methods.Terms("digits", None, "cpu", epochs=1, limit=200, commit="abc1234", state=state)


def _rows(path):
    return list(csv.DictReader(path.open()))


def _study(methods, terms, path, jobs, stop_at=float("inf")):
    methods.study(terms, [methods.Job(*job) for job in jobs], path, jobs=1, stop_at=stop_at)
    return _rows(path) if path.exists() else []


def test_a_study_trains_the_teacher_once_and_a_failure_is_a_row(methods, terms, tmp_path):
    path = tmp_path / "study.csv"
    rows = _study(methods, terms, path, [("", "teacher", 0), ("", "kd", 0), ("", "nosuch", 0), ("", "plain", 0)])
    assert [row["method"] for row in rows] == ["kd", "nosuch", "plain", "teacher"]
    by_method = {row["method"]: row for row in rows}
    assert by_method["nosuch"]["error"].startswith("ConfigError: unknown method 'nosuch'")
    assert by_method["nosuch"]["test_accuracy"] == ""
    for method in ("kd", "plain", "teacher"):
        assert 0 < float(by_method[method]["test_accuracy"]) < 1 and by_method[method]["error"] == ""
    assert float(by_method["kd"]["ms_per_step"]) > 0
    assert len(list((tmp_path / "state").glob("*.safetensors"))) == 1


def test_the_accuracy_is_that_of_the_last_epochs_student_on_the_test_images(methods, terms, tmp_path):
    from edgekd.distill import RunOptions, evaluate, load_recipe, run_recipe

    (row,) = _study(methods, terms, tmp_path / "study.csv", [("", "plain", 3)])
    dataset = load_dataset(DataConfig(name="digits", limit=200))
    outcome = run_recipe(
        load_recipe("plain"),
        student=methods._spec(terms, "resnet8-w2"),
        teacher=None,
        dataset=dataset,
        settings=methods._settings(terms).model_copy(update={"epochs": 1}),
        options=RunOptions(seed=3),
    )
    assert methods._settings(terms).select == "last"
    assert float(row["test_accuracy"]) == pytest.approx(evaluate(outcome.student, dataset.test).score, abs=1e-4)


def test_rows_that_are_there_are_kept_and_only_the_missing_run(methods, terms, tmp_path, monkeypatch):
    path = tmp_path / "study.csv"
    _study(methods, terms, path, [("", "plain", 0)])
    path.write_text(path.read_text().replace("abc1234", "older"))
    ran = []
    honest = methods.trained
    monkeypatch.setattr(methods, "trained", lambda terms, job, stop: ran.append(job) or honest(terms, job, stop))
    rows = _study(methods, terms, path, [("", "plain", 0), ("", "plain", 1)])
    assert [(row["seed"], row["commit"]) for row in rows] == [("0", "older"), ("1", "abc1234")]
    assert [job.seed for job in ran] == [1]


def test_nothing_starts_after_the_slice_ends(methods, terms, tmp_path):
    assert _study(methods, terms, tmp_path / "study.csv", [("", "plain", 0)], stop_at=time.monotonic()) == []


def test_what_pauses_is_no_row_and_goes_on_to_the_same_figure(methods, terms, tmp_path):
    jobs = [("", "plain", 0)]
    twice = dataclasses.replace(terms, epochs=2)
    (whole,) = _study(methods, twice, tmp_path / "whole.csv", jobs)
    assert methods.trained(twice, methods.Job(*jobs[0]), -math.inf) is None
    assert [file.name[:14] for file in (tmp_path / "state" / "paused").iterdir()] == ["digits-plain-0"]
    (resumed,) = _study(methods, twice, tmp_path / "resumed.csv", jobs)
    assert resumed["test_accuracy"] == whole["test_accuracy"]
    assert not list((tmp_path / "state" / "paused").iterdir())


def test_on_a_gpu_everything_stays_there_in_bf16(methods, terms):
    settings = methods._settings(dataclasses.replace(terms, device="cuda", compile="no"))
    assert (settings.precision, settings.resident, settings.channels_last, settings.compile) == (
        "bf16",
        True,
        True,
        "no",
    )
    assert methods._settings(terms).precision == "no"


def test_wanted_rows_are_teachers_then_seeds_of_every_pair(methods):
    jobs = methods.wanted(Namespace(suite="cifar100", pairs="vgg13-vgg8,resnet56-resnet20", methods="kd,sp", seeds=2))
    assert [job.method for job in jobs[:2]] == ["teacher", "teacher"]
    rest = [(job.seed, job.pair, job.method) for job in jobs[2:]]
    assert rest == sorted(rest, key=lambda row: row[0]) and len(set(rest)) == 8
    every = methods.wanted(Namespace(suite="digits", pairs=None, methods=None, seeds=1))
    from edgekd.distill import recipe_names

    assert [job.method for job in every[1:]] == list(recipe_names())


def test_the_name_says_task_trial_device_versions_and_commit(methods, terms):
    name = methods.result_name(terms)
    assert name.startswith("methods-digits-epochs1-limit200_cpu-") and name.endswith("_abc1234.csv")


def test_every_suites_networks_are_known(bench, methods):
    from edgekd.models import parse_net

    for suite in bench("suites").SUITES.values():
        for pair in suite.pairs.values():
            for net in pair:
                parse_net(net)
        assert suite.settings.select == "last"


def test_a_cut_takes_rows_of_all_classes_and_measures_them(bench):
    suites = bench("suites")
    whole = load_dataset(DataConfig(name="digits"))
    cut = suites._cut(whole, 100, None)
    assert len(cut.train) == 100 and len(cut.test) == len(whole.test) and cut.digest != whole.digest
    pixels = cut.train.inputs.gather(np.arange(100)) / 255
    assert cut.mean == pytest.approx((pixels.mean(),)) and cut.std == pytest.approx((pixels.std(),))
    assert np.bincount(cut.train.labels).min() >= 9


def test_watched_images_are_the_first_of_the_held_out_ones(bench):
    suites = bench("suites")
    whole = load_dataset(DataConfig(name="digits"))
    data = suites._watched(dataclasses.replace(whole))
    assert data.val is whole.val and len(data.dataset.val) == min(1000, len(whole.val))


TABLE = """pair,method,seed,val_accuracy,test_accuracy,seconds,ms_per_step,commit,error
,teacher,0,,0.9500,,,c,
,plain,0,,0.8000,1,5.0,c,
,plain,1,,0.8100,1,7.0,c,
,plain,2,,0.8200,1,6.0,c,
,kd,0,,0.8300,1,9.0,c,
,kd,1,,0.8390,1,9.0,c,
,kd,2,,0.8510,1,9.0,c,
,at,0,,0.5000,1,9.0,c,
,at,1,,0.5100,1,9.0,c,
,at,2,,,,,c,TrainingDiverged: nan
other,kd,0,,0.1000,1,9.0,c,
"""


def test_the_table_ranks_by_mean_compares_by_seed_and_hides_no_loser(bench, tmp_path, monkeypatch):
    tables = bench("readme_tables")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "methods-x_cpu.csv").write_text(TABLE)
    text = tables.methods_table("methods-x_*.csv")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == ["teacher", "kd", "plain", "at"]
    assert lines[0] == "| `teacher` | 95.00 % | 1 |  |  |  |  |"
    # differences 3.0, 2.9, 3.1: mean 3, deviation 0.1, t(0.975, 2) = 4.3027
    assert "| 84.00 ± 1.05 % | 3 | **+3.00 ± 0.25** |  |  | 9.0 |" in lines[1]
    assert "| -30.00 ± 0.00 | -32.95 ± 0.64 | 0 of 2 (p = 0.500) | 9.0 |" in lines[3]
    assert "`at` failed: TrainingDiverged: nan." in text


def test_the_command_line_gives_its_help(bench, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["methods.py", "--help"])
    with pytest.raises(SystemExit):
        bench("methods").main()
    assert "--slice-minutes" in capsys.readouterr().out


def test_packing_a_folder_of_pictures_keeps_every_pixel(bench, tmp_path, monkeypatch):
    from PIL import Image

    pack = bench("pack_images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for row in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / name / f"{row}.png")
    monkeypatch.setattr(pack, "PIECE_BYTES", 3 * 8 * 8 * 3)
    source = DataConfig(name="folder", path=str(tmp_path / "pets"), resolution=8)
    files = pack.pack(source, tmp_path / "packed")
    assert sorted(file.name for file in files)[1:4] == ["test-000.npz", "test-001.npz", "train-000.npz"]
    packed = DataConfig(name="packed", path=str(tmp_path / "packed"), val_fraction=0.4)
    whole = load_dataset(source.model_copy(update={"val_fraction": 0.4}))
    again = load_dataset(packed)
    for part in ("train", "val", "test"):
        one, other = getattr(whole, part), getattr(again, part)
        rows = np.arange(len(one))
        np.testing.assert_array_equal(one.inputs.gather(rows), other.inputs.gather(rows))
        np.testing.assert_array_equal(one.labels, other.labels)
