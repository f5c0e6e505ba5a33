"""`edgekd search` as a user meets it, and the student it found handed to `edgekd distill`."""

import json
import subprocess
import sys
from importlib import util

import pytest
import yaml

pytest.importorskip("optuna", reason="extra search is not installed")

SMALL = {
    "data": {"name": "digits", "limit": 300},
    "teacher": {"net": "resnet8-w8", "epochs": 2},
    "student": {"max_share": 0.9},
    "train": {"epochs": 1, "batch_size": 32, "device": "cpu"},
    "search": {
        "space": {"families": ["resnet"], "depths": {"resnet": [8]}, "widths": {"resnet": [2, 4, 6]}, "reduces": [1]},
        "trials": 2,
        "rungs": [1],
        "finalists": 1,
    },
    "seeds": 1,
    "compare_alone": False,
    "calibration_size": 32,
    "also_build": [],
}

POSTGRES = (1, "postgresql+psycopg://u:***@127.0.0.1:1/x cannot be")
if util.find_spec("psycopg") is None:
    POSTGRES = (5, "needs the package 'psycopg': pip install 'edgekd[postgres]'")


def _edgekd(*arguments, cwd):
    command = [sys.executable, "-c", "from edgekd.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    (folder / "run.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return _edgekd(
        "search", "run.yaml", "--target", "jetson-orin", "--budget", "p99<2ms", "--workers", "2", "--out", "found",
        "--json", cwd=folder,
    )  # fmt: skip


def test_two_workers_find_a_student_and_print_one_document(found, folder):
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert document["schema_version"] == 1 and document["budget"] == "p99<2ms"
    assert len(document["finalists"]) == 1 and (folder / "found" / "search.html").is_file()
    workers = {trial["worker"] for trial in document["trials"]}
    assert all(trial["state"] in ("trained", "copied", "over budget") for trial in document["trials"])
    assert sum(trial["state"] == "trained" for trial in document["trials"]) >= 2 and workers
    assert json.loads((folder / "found" / "search.json").read_text())["front"] == document["front"]


def test_a_board_that_is_named_is_asked_before_anything_is_trained(folder):
    done = _edgekd(
        "search", "run.yaml", "--target", "jetson-orin", "--budget", "energy<20mJ", "--device", "127.0.0.1:1",
        "--out", "board", cwd=folder,
    )  # fmt: skip
    assert done.returncode != 0 and "127.0.0.1 cannot be reached" in done.stderr
    assert not (folder / "board" / "teacher").exists()


def test_the_student_found_is_distilled(found, folder):
    document = json.loads(found.stdout)
    student = document["finalists"][0]
    weights = document["teacher"]["weights"]
    done = _edgekd(
        "distill", "run.yaml", "--student", student["file"], "--teacher-weights", weights, "--target", "jetson-orin",
        "--budget", "p99<2ms", "--out", "distilled", "--method", "kd", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["scores"]["distilled"]["net"] == student["cost"]["name"]
    assert any("was found by edgekd search" in note for note in report["notes"])


def test_a_dry_run_shows_the_space_with_its_costs_and_writes_nothing(folder):
    done = _edgekd(
        "search", "run.yaml", "--target", "jetson-orin", "--budget", "p99<2ms", "--out", "dry", "--dry-run", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "resnet: 3 students" in done.stdout and "predicted" in done.stdout
    assert "p99<2ms: the budget does not limit this space" in done.stdout
    assert not (folder / "dry").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (("--budget", "p99<1us"), 3, "no family reaches p99<0.001ms: the floor on jetson-orin is p99<"),
        (("--budget", ""), 2, "'' is not of the form p99<8ms"),
        (("--space", "resnett"), 2, "unknown network family 'resnett'; did you mean resnet"),
        (("--space", "fcn"), 2, "do not fit classification of pictures"),
        (("--storage", "redis://x"), 2, "write a file, postgresql://user@host/name"),
        (("--storage", "postgresql://u:secret@127.0.0.1:1/x"), *POSTGRES),
        (("--budget", "energy<1mJ"), 2, "energy (energy<1mJ) cannot be known on jetson-orin"),
        (("--set", "search.rungs=[3,1]"), 2, "rungs are epochs in increasing order"),
        (("--set", "search.objectives=[p99]"), 2, "objectives begin with score"),
        (("--name", ""), 2, "search.name"),
    ],
)
def test_bad_input_is_one_message_and_its_exit_code(folder, tmp_path, arguments, code, fragment):
    done = _edgekd(
        "search", folder / "run.yaml", "--target", "jetson-orin", "--out", tmp_path / "x", *arguments, cwd=folder
    )
    assert done.returncode == code, done.stderr
    assert fragment in done.stderr and "Traceback" not in done.stderr and "secret" not in done.stderr


def test_a_student_file_that_search_did_not_write_is_refused(folder):
    (folder / "mine.json").write_text("{}")
    done = _edgekd("distill", "run.yaml", "--student", "mine.json", "--out", "no", cwd=folder)
    assert done.returncode == 2 and "is no student that edgekd search found" in done.stderr
