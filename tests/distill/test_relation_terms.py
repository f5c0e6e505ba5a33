"""Terms on relations: where they read, how they add up, what they train and what they refuse."""

import pytest
import torch
from edgekd_kernels import functional as K

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.terms import (
    CorrelationCongruence,
    InBatchContrast,
    KernelAlignment,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SolutionFlow,
    Step,
    build_term,
)
from edgekd.distill.trace import Trace, TraceSpec

STEP = Step(0, 10, 0)
STUDENT = TraceSpec(4, {"a": (2, 8, 8), "b": (3, 4, 4), "flat": (3,)}, "flat")
TEACHER = TraceSpec(4, {"x": (5, 8, 8), "y": (6, 4, 4), "pool": (6,)}, "pool")


def _trace(spec, *, seed, batch=5):
    generator = torch.Generator().manual_seed(seed)
    feats = {
        path: torch.rand(batch, *shape, generator=generator, dtype=torch.float64) for path, shape in spec.feats.items()
    }
    return Trace(torch.zeros(batch, 4), feats, {}, torch.zeros(batch, 1, 8, 8))


def _batch(count=5):
    return Batch(
        torch.zeros(count, 1, 8, 8),
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count),
        torch.ones(count, dtype=torch.bool),
    )


MINE, THEIRS = _trace(STUDENT, seed=0), _trace(TEACHER, seed=1)


PARAMETERLESS = {
    "rkd-distance": (RelationalDistance, K.rkd_distance),
    "rkd-angle": (RelationalAngle, K.rkd_angle),
    "pkt": (ProbabilisticTransfer, K.pkt),
    "cka": (KernelAlignment, K.cka_dissimilarity),
}


@pytest.mark.parametrize("term, loss", PARAMETERLESS.values(), ids=PARAMETERLESS)
def test_relation_terms_read_the_penultimate_features(term, loss):
    built = term(STUDENT, TEACHER)
    assert built.needs.student == ("flat",) and built.needs.teacher == ("pool",)
    expected = loss(MINE.feats["flat"], THEIRS.feats["pool"])
    torch.testing.assert_close(built(MINE, THEIRS, _batch(), STEP), expected)
    assert not list(built.parameters())


@pytest.mark.parametrize("kind, loss", [(kind, loss) for kind, (_, loss) in PARAMETERLESS.items()])
def test_relation_terms_add_up_over_map_pairs(kind, loss):
    built = build_term(kind, STUDENT, TEACHER, {"pairs": "all"})
    assert built.pairs == (("a", "x"), ("b", "y"))
    expected = sum(loss(MINE.feats[on], THEIRS.feats[to]) for on, to in built.pairs)
    torch.testing.assert_close(built(MINE, THEIRS, _batch(), STEP), expected)


def test_relation_terms_take_pairs_of_paths_and_refuse_unknown_ones():
    built = build_term("rkd-distance", STUDENT, TEACHER, {"pairs": [["b", "pool"]]})
    assert built.pairs == (("b", "pool"),)
    with pytest.raises(ConfigError, match="unknown module to tap 'c'"):
        build_term("rkd-distance", STUDENT, TEACHER, {"pairs": [["c", "pool"]]})
    with pytest.raises(ConfigError, match="pairs"):
        build_term("rkd-distance", STUDENT, TEACHER, {"pairs": "deepest"})


def _with(trace, **feats):
    return Trace(trace.logits, {**trace.feats, **feats}, trace.aux, trace.inputs)


def test_correlation_congruence_embeds_the_student_alone():
    term = CorrelationCongruence(STUDENT, TEACHER, embedding_width=7, gamma=0.9, order=3).double()
    (embedding,) = term.embeddings
    assert (embedding.in_features, embedding.out_features) == (3, 7)
    mine = MINE.feats["flat"] @ embedding.weight.T + embedding.bias
    expected = K.correlation_congruence(mine, THEIRS.feats["pool"], gamma=0.9, order=3)
    values = term(MINE, THEIRS, _batch(), STEP)
    torch.testing.assert_close(values, expected)
    values.mean().backward()
    assert embedding.weight.grad.abs().sum() > 0


def test_correlation_congruence_embeds_each_of_several_maps():
    term = CorrelationCongruence(STUDENT, TEACHER, pairs="all").double()
    assert [one.in_features for one in term.embeddings] == [2 * 64, 3 * 16]
    expected = sum(
        K.correlation_congruence(one(MINE.feats[on].flatten(1)), THEIRS.feats[to])
        for one, (on, to) in zip(term.embeddings, term.pairs, strict=True)
    )
    torch.testing.assert_close(term(MINE, THEIRS, _batch(), STEP), expected)


def test_fsp_projects_the_student_to_the_teachers_widths_and_adds_consecutive_flows():
    student = TraceSpec(4, {"a": (2, 8, 8), "b": (6, 4, 4), "c": (3, 2, 2)}, "")
    teacher = TraceSpec(4, {"x": (5, 8, 8), "y": (6, 4, 4), "z": (7, 2, 2)}, "")
    term = SolutionFlow(student, teacher).double()
    assert term.needs.student == ("a", "b", "c") and term.needs.teacher == ("x", "y", "z")
    assert isinstance(term.projectors[1], torch.nn.Identity)
    mine, theirs = _trace(student, seed=2), _trace(teacher, seed=3)
    a, b, c = (project(mine.feats[on]) for project, on in zip(term.projectors, "abc", strict=True))
    x, y, z = (theirs.feats[to] for to in "xyz")
    torch.testing.assert_close(term(mine, theirs, _batch(), STEP), K.fsp(a, b, x, y) + K.fsp(b, c, y, z))


def test_fsp_is_zero_for_the_teacher_itself_and_needs_two_maps():
    term = SolutionFlow(TEACHER, TEACHER)
    assert not list(term.parameters())
    assert term(THEIRS, THEIRS, _batch(), STEP).abs().max() == 0
    with pytest.raises(ConfigError, match="needs two pairs"):
        SolutionFlow(STUDENT, TEACHER, pairs="last")
    with pytest.raises(ConfigError, match="fsp needs feature maps"):
        SolutionFlow(STUDENT, TEACHER, pairs=[("a", "x"), ("flat", "pool")])


def test_info_nce_trains_both_heads_and_not_what_is_below_the_teachers():
    term = InBatchContrast(STUDENT, TEACHER, embedding_width=7, temperature=0.5).double()
    below = _with(THEIRS, pool=THEIRS.feats["pool"].clone().requires_grad_())
    mine = _with(MINE, flat=MINE.feats["flat"].clone().requires_grad_())
    values = term(mine, below, _batch(), STEP)
    expected = K.info_nce(
        term.student_head(MINE.feats["flat"]), term.teacher_head(THEIRS.feats["pool"]), temperature=0.5
    )
    torch.testing.assert_close(values, expected)
    values.mean().backward()
    assert below.feats["pool"].grad is None
    assert mine.feats["flat"].grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in (term.student_head.weight, term.teacher_head.weight))


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("correlation-congruence", {"gamma": 0.0}, "must all be positive"),
        ("correlation-congruence", {"order": 0}, "must all be positive"),
        ("correlation-congruence", {"embedding_width": 0}, "must all be positive"),
        ("info-nce", {"temperature": 0.0}, "must be positive"),
        ("info-nce", {"embedding_width": -1}, "must be positive"),
    ],
)
def test_relation_terms_refuse_options_out_of_range(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        build_term(kind, STUDENT, TEACHER, options)


@pytest.mark.parametrize(
    "recipe, weights",
    [
        ("rkd", {"rkd-distance": 25.0, "rkd-angle": 50.0}),
        ("cc", {"correlation-congruence": 0.02}),
        ("pkt", {"pkt": 30000.0}),
        ("cka", {"cka": 1.0}),
        ("fsp", {"fsp": 50.0}),
        ("info-nce", {"info-nce": 0.8}),
    ],
)
def test_recipes_have_the_weights_of_the_benchmark(recipe, weights):
    terms = {term.type: term.weight for term in load_recipe(recipe).stages[0].terms}
    assert terms == {"cross-entropy": 1.0, **weights}


def _only(*terms):
    return Recipe(name="test", title="test", stages=[{"name": "student", "terms": list(terms)}])


@pytest.mark.parametrize(
    "term, factor",
    [
        ({"type": "rkd-distance", "weight": 25.0}, 0.5),
        ({"type": "rkd-angle", "weight": 50.0}, 0.5),
        ({"type": "correlation-congruence", "weight": 30.0}, 0.5),
        ({"type": "pkt", "weight": 30000.0}, 0.5),
        ({"type": "cka"}, 0.5),
        ({"type": "fsp", "weight": 50.0}, 0.5),
        ({"type": "info-nce", "weight": 0.8}, 0.75),
    ],
)
def test_relation_terms_lower_their_own_loss(run, settings, term, factor):
    outcome = run(_only(term), settings=settings.model_copy(update={"epochs": 8, "select": "last"}))
    first, last = outcome.history[0].loss, outcome.history[-1].loss
    assert last < factor * first
