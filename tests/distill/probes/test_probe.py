"""What all probes have in common: chance, extreme, roles, and that they change nothing."""

import copy
import math

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Split, Task
from edgekd.distill.probes import PROBES

SMALL = {
    "adversarial": {"epsilon": 0.3},
    "boundary": {"triplets": 4, "side": 8},
    "channels": {"k": 2},
    "complexity": {"kernel": "trained", "images": 20},
    "localisation": {"layer": 3},
}
MIRRORED = ("calibration", "degradation", "invariance")


def _run(name, roles, split):
    return PROBES[name](roles, split, **SMALL.get(name, {}))


def test_the_probes_of_the_papers_are_registered():
    assert set(PROBES) == {
        "adversarial",
        "between-points-kl",
        "boundary",
        "calibration",
        "channels",
        "cka",
        "complexity",
        "consensus",
        "degradation",
        "errors",
        "fidelity",
        "invariance",
        "localisation",
    }


@pytest.mark.parametrize("name", PROBES)
def test_the_teacher_in_the_students_place_gives_the_extreme(name, models, split):
    teacher = models["teacher"]
    figures = _run(name, {**models, "student": copy.deepcopy(teacher)}, split)
    assert PROBES[name].extreme or name in (*MIRRORED, "complexity")
    for figure, value in PROBES[name].extreme.items():
        assert figures[figure] == pytest.approx(value, abs=1e-6), figure
    if name in MIRRORED:
        mine = {figure for figure in figures if f"teacher.{figure}" in figures}
        assert len(mine) == len(figures) / 3
        assert all(figures[figure] == figures[f"teacher.{figure}"] for figure in mine)


@pytest.mark.parametrize("name", [name for name in PROBES if PROBES[name].extreme])
def test_no_independent_student_reaches_the_extreme(name, models, split):
    figures = _run(name, {**models, "student": models["another"]}, split)
    assert all(abs(figures[figure] - value) > 0.01 for figure, value in PROBES[name].extreme.items())


@pytest.mark.parametrize("name", PROBES)
def test_chance_two_independent_students_exchanged_exchange_their_figures(name, models, split):
    # what no rule prefers one of gives both the same value on average: chance
    one, other = models["independent"], models["another"]
    first = _run(name, {**models, "student": one, "independent": other}, split)
    second = _run(name, {**models, "student": other, "independent": one}, split)
    compared = {figure for figure in first if f"independent.{figure}" in first}
    assert compared
    for figure in compared:
        assert _same(first[figure], second[f"independent.{figure}"]), figure
    if name == "localisation":
        assert first["win_rate"] + second["win_rate"] == pytest.approx(1)
        assert first["chance.win_rate"] == 0.5


@pytest.mark.parametrize("name", PROBES)
def test_the_independent_student_itself_gives_exactly_chance(name, models, split):
    figures = _run(name, {**models, "student": copy.deepcopy(models["independent"])}, split)
    for figure in (figure for figure in figures if f"independent.{figure}" in figures):
        assert _same(figures[figure], figures[f"independent.{figure}"]), figure
    if name == "localisation":
        assert figures["win_rate"] == 0.5


@pytest.mark.parametrize("name", PROBES)
def test_probes_leave_networks_as_they_were(name, models, split):
    roles = {**models, "student": copy.deepcopy(models["student"]).train()}
    roles["student"].net.bn1.eval()
    before = {role: copy.deepcopy(network) for role, network in roles.items()}
    _run(name, roles, split)
    for role, network in roles.items():
        kept = dict(before[role].state_dict())
        assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())
        modes = [module.training for module in network.modules()]
        assert modes == [module.training for module in before[role].modules()]
        assert all(parameter.grad is None for parameter in network.parameters())
        assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", PROBES)
def test_the_seed_decides_everything(name, models, split):
    one, other = (_run(name, models, split) for _ in range(2))
    assert one.keys() == other.keys()
    assert all(_same(one[figure], other[figure]) for figure in one)


@pytest.mark.parametrize("name", ["degradation", "invariance", "boundary"])
def test_another_seed_draws_anew(name, models, split):
    options = SMALL.get(name, {})
    assert PROBES[name](models, split, seed=0, **options) != PROBES[name](models, split, seed=1, **options)


@pytest.mark.parametrize("name", PROBES)
def test_a_missing_role_is_named(name, models, split):
    for role in PROBES[name].needs:
        others = {other: network for other, network in models.items() if other != role}
        with pytest.raises(ConfigError, match=f"needs the role '{role}'"):
            PROBES[name](others, split)


@pytest.mark.parametrize("name", PROBES)
def test_other_tasks_and_inputs_are_refused_where_they_make_no_sense(name, models, split):
    maps = Split(split.inputs, np.zeros((60, 8, 8), np.int64), Task("segmentation", ("a", "b")))
    if name != "fidelity":
        with pytest.raises(ConfigError, match="for classification, the data are for segmentation"):
            PROBES[name](models, maps)
    tokens = Split(_Tokens(), split.labels, split.task)
    if name not in ("calibration", "errors", "fidelity"):
        with pytest.raises(ConfigError, match=r"for pictures \[C, H, W\], the inputs are \[7\]"):
            PROBES[name](models, tokens)


class _Tokens:
    shape = (7,)

    def __len__(self):
        return 60

    def gather(self, indices):
        return np.tile(np.arange(7), (len(indices), 1))


def test_an_unknown_or_wrong_option_is_named(models, split):
    with pytest.raises(ConfigError, match="pictures: unknown key"):
        PROBES["cka"](models, split, pictures=3)
    with pytest.raises(ConfigError, match="kernel"):
        PROBES["cka"](models, split, kernel="cubic")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("cka", {"images": 2}, "images is 2"),
        ("cka", {"bandwidth": 0.0}, "bandwidth is 0"),
        ("localisation", {"images": 0}, "images is 0"),
        ("localisation", {"layer": 4}, "the network has 3 maps"),
        ("adversarial", {"epsilon": 0.0}, "epsilon is 0"),
        ("adversarial", {"steps": 0}, "steps is 0"),
        ("invariance", {"strengths": (1.5,)}, "strengths are"),
        ("invariance", {"strengths": ()}, "strengths are"),
        ("boundary", {"side": 1}, "side is 1"),
        ("boundary", {"triplets": 0}, "triplets is 0"),
        ("consensus", {"domains": ()}, "domains is empty"),
        ("degradation", {"severities": (6,)}, "severity is 6"),
        ("channels", {"k": 9}, "k is 9"),
        ("complexity", {"images": 2001}, "images is 2001"),
        ("complexity", {"temperatures": (0.0,)}, "temperatures are"),
        ("complexity", {"outputs": (4,)}, "outputs are"),
        ("complexity", {"epsilon": -1.0}, "epsilon is -1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, says, models, split):
    with pytest.raises(ConfigError, match=says):
        PROBES[name](models, split, **options)


def _same(one, other):
    return (math.isnan(one) and math.isnan(other)) or one == pytest.approx(other, abs=1e-9)
