"""Curriculum extraction: what is drawn and when, what a stage leaves alone, and what it is without its stages."""

import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.roles import open_session
from edgekd.distill.terms import Preparation, Step, build_term
from edgekd.distill.trace import Trace, TraceSpec, map_at

STEP = Step(0, 10, 0)
STUDENT = TraceSpec(3, {"a": (4, 8, 8), "b": (5, 4, 4), "c": (6, 2, 2), "flatten": (6,)}, "flatten")
TEACHER = TraceSpec(3, {"x": (7, 16, 16), "y": (9, 2, 2), "flatten": (9,)}, "flatten")
CPU = torch.device("cpu")


def _trace(spec, rows=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    feats = {path: 1 + torch.randn(rows, *shape, generator=rng) for path, shape in spec.feats.items()}
    return Trace(torch.zeros(rows, 3), feats, {}, torch.zeros(rows, 1, 8, 8))


def _batch(rows=3):
    return Batch(torch.zeros(rows, 1, 8, 8), torch.zeros(rows).long(), torch.arange(rows), torch.ones(rows).bool())


def _traces(rows):
    for seed in (5, 6):
        yield _trace(STUDENT, seed=seed), _trace(TEACHER, seed=seed)


def _prepared(seed=0, *, before=1, **options):
    torch.manual_seed(before)
    term = build_term("random-projection", STUDENT, TEACHER, options)
    term.prepare(Preparation(torch.zeros(4).long(), 1, CPU, _traces, seed=seed))
    return term


def test_the_projection_preserves_squared_lengths_in_expectation():
    feature = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, 0.0, 2.0, -1.0, 4.0])
    squares = torch.stack([(_prepared(seed, at="last").projection @ feature).square().sum() for seed in range(400)])
    expected = feature.square().sum()
    deviation = expected * (2 / 6) ** 0.5
    assert abs(squares.mean() - expected) < 4 * deviation / 400**0.5
    assert squares.std() == pytest.approx(deviation.item(), rel=0.2)


def test_the_projection_is_the_seed_s_whatever_ran_before():
    one = _prepared(3, before=1).projection
    assert torch.equal(one, _prepared(3, before=99).projection)
    assert not torch.equal(one, _prepared(4, before=1).projection)
    assert not list(_prepared().parameters()) and not _prepared().state_dict()


@pytest.mark.parametrize("at, on, to", [("first", "a", "x"), ("middle", "b", "y"), ("last", "c", "y")])
def test_it_compares_maps_of_one_rank_at_the_student_s_size(at, on, to):
    assert (map_at(STUDENT, at), map_at(TEACHER, at)) == (on, to)
    term, mine, theirs = _prepared(at=at), _trace(STUDENT), _trace(TEACHER, seed=1)
    size = mine.feats[on].shape[-1]
    large = theirs.feats[to]
    if large.shape[-1] > size:
        factor = large.shape[-1] // size
        fitted = large.unflatten(2, (size, factor)).unflatten(4, (size, factor)).mean(dim=(3, 5))
    else:
        fitted = large.repeat_interleave(size // large.shape[-1], 2).repeat_interleave(size // large.shape[-1], 3)
    projected = torch.einsum("cd,bdhw->bchw", term.projection.double(), fitted.double())
    expected = (mine.feats[on] - projected).square().sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP).double(), expected)


def test_centred_channels_are_taken_less_their_mean_over_training_images():
    plain, centred = _prepared(at="last"), _prepared(at="last", is_centred=True)
    assert torch.equal(plain.projection, centred.projection)
    means = torch.cat([teacher.feats["y"] for _, teacher in _traces(6)]).mean(dim=(0, 2, 3))
    mine, theirs = _trace(STUDENT), _trace(TEACHER, seed=1)
    less = Trace(theirs.logits, {**theirs.feats, "y": theirs.feats["y"] - means.view(-1, 1, 1)}, {}, theirs.inputs)
    torch.testing.assert_close(centred(mine, theirs, _batch(), STEP), plain(mine, less, _batch(), STEP))


def test_another_width_is_read_by_a_trained_convolution():
    term, mine = _prepared(at="last", width=2), _trace(STUDENT)
    assert term.projection.shape == (2, 9) and isinstance(term.reader, nn.Conv2d) and term.reader.bias is None
    term(mine, _trace(TEACHER), _batch(), STEP).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in term.parameters())


def test_options_and_networks_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="width must be positive"):
        build_term("random-projection", STUDENT, TEACHER, {"width": 0})
    with pytest.raises(ConfigError, match="no feature map"):
        build_term("random-projection", STUDENT, TraceSpec(3, {"f": (4,)}, "f"), {})


@pytest.mark.parametrize(
    "stages, above", [(1, ("layer2", "layer3", "linear")), (2, ("layer3", "linear")), (3, ("linear",))]
)
def test_a_stage_changes_no_weight_and_no_statistic_above_its_map(run, student, teacher, stages, above):
    recipe = load_recipe("curriculum-extraction")
    part = recipe.model_copy(update={"stages": recipe.stages[:stages]})
    start = (
        open_session(recipe, student=student, teacher=teacher, input_shape=(1, 8, 8), seed=0).net("student").backbone
    )
    before, after = start.state_dict(), run(part).student.state_dict()
    higher = {name for name in before if any(f"net.{layer}." in name for layer in above)}
    assert higher and all(torch.equal(before[name], after[name]) for name in higher)
    trained = [name for name, _ in start.named_parameters() if name not in higher]
    assert all(not torch.equal(before[name], after[name]) for name in trained)


def test_without_its_stages_it_is_one_shot_kd(run):
    recipe = load_recipe("curriculum-extraction")
    final = recipe.stages[-1].model_copy(update={"epochs": 1.0})
    one, other = (run(each).student.state_dict() for each in (recipe.model_copy(update={"stages": (final,)}), "kd"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_its_stages_are_as_long_as_one_shot_kd_together():
    assert sum(stage.epochs for stage in load_recipe("curriculum-extraction").stages) == pytest.approx(1.0)


def test_each_stage_and_each_seed_draws_its_own_projection_and_a_second_run_the_same(run, monkeypatch):
    drawn = []
    kind = type(build_term("random-projection", STUDENT, TEACHER, {}))
    prepare = kind.prepare

    def spy(self, preparation):
        prepare(self, preparation)
        drawn.append(self.projection.clone())

    monkeypatch.setattr(kind, "prepare", spy)
    stage = {"terms": [{"type": "random-projection"}]}
    recipe = Recipe(name="t", title="t", stages=[{"name": "one", **stage}, {"name": "two", **stage}])
    for seed in (0, 0, 1):
        run(recipe, seed=seed)
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[4])
