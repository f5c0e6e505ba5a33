import pytest

from edgekd.core.errors import ConfigError
from edgekd.search import Dimension, FamilySpace, SearchSpace, parameters_of, values_of
from edgekd.search.space import suggest


class FixedTrial:
    """Gives the parameters it was made with, and refuses names or ranges that a study would not have."""

    def __init__(self, parameters):
        self.parameters, self.asked = parameters, []

    def suggest_categorical(self, name, choices):
        assert self.parameters[name] in choices
        self.asked.append(name)
        return self.parameters[name]

    def suggest_int(self, name, low, high):
        assert low <= self.parameters[name] <= high
        self.asked.append(name)
        return self.parameters[name]


def test_a_space_lists_every_member_once(toys):
    points = [tuple(sorted(point.items())) for point in toys.SPACE.points()]
    assert len(points) == len(set(points)) == len(toys.SPACE) == 3 * 4 + 3 * 2


def test_parameters_and_points_are_two_names_of_one_student(toys):
    for point in toys.SPACE.points():
        trial = FixedTrial(parameters_of(point, toys.SPACE))
        assert suggest(trial, toys.SPACE) == point
        assert set(trial.asked) == set(trial.parameters)


def test_corners_are_the_ends_and_the_middle_of_what_has_an_order(toys):
    corners = toys.SPACE["mobilenetv2"].corners()
    assert {name: values_of(point) for name, point in corners.items()} == {
        "min": {"width": 4, "kernel": "3"},
        "centre": {"width": 8, "kernel": "3"},
        "max": {"width": 16, "kernel": "3"},
    }
    assert values_of(toys.SPACE["resnet"].corners()["centre"]) == {"depth": 14, "width": 16}


@pytest.mark.parametrize("families", [(), (FamilySpace("resnet", (Dimension("depth", (8,)), Dimension("width", ()))),)])
def test_an_empty_space_is_refused(families):
    with pytest.raises(ConfigError, match="the search space is empty"):
        SearchSpace(families)
