import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.core.errors import ConfigError, TrainingDiverged
from edgekd.search import close_lost, queue_lost, records_of, sampler_for, work, worker_name
from edgekd.search.trials import note

NAME = "host-of-tests:1:0"


def _run(toys, begin, students=None, **changes):
    plan, students = toys.plan(**changes), students or toys.ToyStudents()
    study = begin(plan)
    work(study, plan, students, worker=worker_name(0))
    return plan, students, records_of(study)


def test_only_what_keeps_the_budget_is_trained_and_every_trial_is_recorded(toys, begin):
    _, students, records = _run(toys, begin)
    assert len(students.trained) == sum(record.is_counted for record in records) == 8
    for record in records:
        assert record.state in ("trained", "stopped", "over budget", "copied")
        over = toys.cost_of(record.point).figures["p99"] >= 1.0
        if record.state == "over budget":
            assert over and record.score is None and max(record.excess) > 0
        if record.is_counted:
            assert not over and max(record.excess) <= 0
            assert record.score == pytest.approx(record.rungs[record.epochs])
    points = [json.dumps(point) for point in students.trained]
    assert len(points) == len(set(points))


def test_training_stops_at_rungs_and_costs_less_than_training_all(toys, begin):
    _, students, records = _run(toys, begin, budget=None, objectives=("score",), trials=12)
    stopped = [record for record in records if record.state == "stopped"]
    assert stopped and {record.epochs for record in stopped} <= {1, 3}
    assert students.epochs_spent == sum(record.epochs for record in records if record.is_counted) < 0.8 * 12 * 9
    best = max(toys.final_score(point) for point in students.trained)
    assert max(record.score for record in records if record.state == "trained") == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_equal_seeds_try_equal_students_and_other_seeds_others(toys, begin, tmp_path, sampler):
    def tried(seed, name):
        plan, students = toys.plan(seed=seed, sampler=sampler), toys.ToyStudents()
        work(begin(plan, name=name), plan, students, worker=worker_name(0))
        return students.trained

    assert tried(0, "a") == tried(0, "b") != tried(1, "c")


@pytest.mark.parametrize("trials, students", [(3, 4), (12, 4), (24, 8), (300, 10)])
def test_a_generation_is_a_third_of_the_trials_between_four_and_ten(toys, trials, students):
    assert sampler_for(toys.plan(sampler="nsga2", trials=trials), 0).population_size == students


def test_a_small_space_is_exhausted_and_the_search_ends(toys, begin):
    _, students, records = _run(toys, begin, trials=1000)
    fitting = [point for point in toys.SPACE.points() if toys.cost_of(point).figures["p99"] < 1.0]
    assert len(students.trained) == len(fitting)
    assert len({json.dumps(record.point) for record in records}) == len(toys.SPACE)


def test_students_larger_than_allowed_are_not_trained(toys, begin):
    _, students, _ = _run(toys, begin, budget=None, max_macs=2000)
    assert students.trained and all(toys.cost_of(point).macs <= 2000 for point in students.trained)


def test_no_student_is_begun_after_the_deadline(toys, begin):
    _, students, records = _run(toys, begin, stop_at=time.monotonic() - 1)
    assert students.trained == [] and records == []


def test_resuming_goes_on_where_the_study_stood(toys, begin):
    first = toys.plan(trials=3)
    students = toys.ToyStudents()
    work(begin(first), first, students, worker=worker_name(0))
    more = toys.plan(trials=7)
    work(begin(more), more, students, worker=worker_name(0))
    points = [json.dumps(point) for point in students.trained]
    assert len(points) == len(set(points)) == 7


def test_a_student_that_fails_is_recorded_and_does_not_end_the_search(toys, begin):
    def diverge(point):
        if point["family"] == "resnet" and point["resnet.depth"] == 8:
            raise TrainingDiverged("loss is NaN")

    _, _, records = _run(toys, begin, toys.ToyStudents(on_train=diverge), budget=None, trials=6)
    failed = [record for record in records if record.state == "failed"]
    assert sum(record.is_counted for record in records) == 6
    assert failed and all("TrainingDiverged: loss is NaN" in record.why for record in failed)


def test_when_the_first_students_all_fail_the_search_ends_with_the_reason(toys, begin):
    def fail(point):
        raise ConfigError("recipe does not fit")

    with pytest.raises(ConfigError, match="recipe does not fit"):
        _run(toys, begin, toys.ToyStudents(on_train=fail), budget=None)


def test_a_trial_of_a_dead_worker_is_lost_and_its_student_tried_again(toys, begin, tmp_path):
    plan = toys.plan(trials=4)
    program = (
        "import importlib.util, sys, time\n"
        f"spec = importlib.util.spec_from_file_location('toys', {str(Path(toys.__file__))!r})\n"
        "toys = importlib.util.module_from_spec(spec); spec.loader.exec_module(toys)\n"
        "from edgekd.search import open_storage, open_study, sampler_for, work, worker_name\n"
        "plan = toys.plan(trials=4)\n"
        f"storage = open_storage({str(tmp_path / 'study.journal')!r})\n"
        "study = open_study(storage, 'study', directions=plan.directions, facts={'seed': 0}, sampler=None)\n"
        "study.sampler = sampler_for(plan, 0)\n"
        "def hang(point):\n    print('training', flush=True); time.sleep(600)\n"
        "work(study, plan, toys.ToyStudents(on_train=hang), worker=worker_name(0))\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert victim.stdout.readline().strip() == "training"
    study = begin(plan)
    assert close_lost(study) == 0
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    students = toys.ToyStudents()
    work(study, plan, students, worker=worker_name(1))
    records = records_of(study)
    (lost,) = [record for record in records if record.state == "lost"]
    (retry,) = [record for record in records if record.why == f"retry of trial {lost.number}"]
    assert retry.point == lost.point and retry.is_counted and lost.point in students.trained
    assert sum(record.is_counted for record in records) == 4


def test_a_silent_worker_elsewhere_loses_its_trial_once(toys, begin):
    plan = toys.plan()
    study = begin(plan)
    trial = study.ask()
    point = next(toys.SPACE.points())
    note(trial, worker="another-machine:7:0", point=point, heartbeat=time.time() - 50)
    assert close_lost(study, silence_s=60) == 0
    assert close_lost(study, silence_s=40) == 1
    assert close_lost(study, silence_s=40) == 0
    assert queue_lost(study, plan.space) == 1 and queue_lost(study, plan.space) == 0
    assert records_of(study)[0].state == "lost"


def test_a_worker_that_was_taken_for_dead_does_no_harm(toys, begin):
    plan = toys.plan(trials=2)
    study = begin(plan)
    closed = []

    def closed_meanwhile(point):
        if not closed:
            closed.append(close_lost(study, silence_s=-1))

    students = toys.ToyStudents(on_train=closed_meanwhile)
    work(study, plan, students, worker=worker_name(0))
    assert closed == [1]
    records = records_of(study)
    assert [record.state for record in records].count("lost") == 1
    assert sum(record.is_counted for record in records) == 2
    assert students.trained[0] == students.trained[1]
