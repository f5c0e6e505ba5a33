import pytest

from edgekd.core.budget import parse_budget
from edgekd.search import parameters_of, queue_guesses, records_of, widest_fits, work, worker_name


@pytest.mark.parametrize("budget", ["p99<0.5ms", "p99<1ms", "p99<3ms", "p99<1s"])
def test_guesses_are_those_of_a_full_sweep_and_cost_fewer_looks(toys, budget):
    plan, looks = toys.plan(budget=budget), []

    def cost(point):
        looks.append(point)
        return toys.cost_of(point)

    fitting = [point for point in toys.SPACE.points() if not parse_budget(budget).misses(toys.cost_of(point).figures)]
    expected = [
        max((point for point in fitting if point["family"] == family), key=lambda one: toys.cost_of(one).macs)
        for family in {point["family"] for point in fitting}
    ]
    found = widest_fits(toys.SPACE, cost, plan.fits)
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert [toys.cost_of(one).macs for one in found] == sorted((toys.cost_of(one).macs for one in found), reverse=True)
    assert len(looks) <= len(toys.SPACE)


def test_nothing_fits_no_guess(toys):
    assert widest_fits(toys.SPACE, toys.cost_of, lambda cost: False) == []


def test_the_first_trials_are_the_guesses_and_a_study_under_way_is_left_alone(toys, begin):
    plan = toys.plan(trials=3)
    study, guesses = begin(plan), widest_fits(toys.SPACE, toys.cost_of, plan.fits)
    queue_guesses(study, plan.space, guesses)
    queue_guesses(study, plan.space, guesses)
    students = toys.ToyStudents()
    work(study, plan, students, worker=worker_name(0))
    assert students.trained[:2] == guesses and len(students.trained) == 3
    begun = len(records_of(study))
    queue_guesses(study, plan.space, guesses)
    assert len(study.get_trials()) >= begun and parameters_of(guesses[0], plan.space)["family"] in (
        "resnet",
        "mobilenetv2",
    )
    assert sum(trial.state.name == "WAITING" for trial in study.get_trials()) == 0
