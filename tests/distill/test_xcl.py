"""XCL: how mixes are made, that nothing reads their labels, that both networks see them, what it is without them."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import kstest

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import load_recipe
from edgekd.distill.mixing import mixes_of
from edgekd.distill.recipe import Recipe
from edgekd.distill.terms import Step, build_term
from edgekd.distill.trace import Trace, TraceSpec
from edgekd.distill.views import VIEWS, Extended, Mixed

STEP = Step(3, 10, 0, seed=5)


def _batch(rows=6):
    inputs = torch.eye(rows).view(rows, 1, 1, rows)
    return Batch(inputs, torch.arange(rows), 10 + torch.arange(rows), torch.ones(rows).bool())


def test_a_mix_is_a_convex_sum_of_two_different_rows_with_shares_of_the_beta_distribution():
    rows = 40
    mixes = mixes_of(torch.eye(rows, dtype=torch.float64), 4000, alpha=0.4, rng=np.random.default_rng(0)).numpy()
    assert np.allclose(mixes.sum(axis=1), 1)
    assert ((mixes > 0).sum(axis=1) == 2).all()
    shares = mixes.max(axis=1)
    assert kstest(np.concatenate([shares, 1 - shares]), "beta", args=(0.4, 0.4)).pvalue > 0.01
    uses = (mixes > 1e-9).sum(axis=0)
    assert abs(uses - 200).max() < 6 * 200**0.5


def test_a_single_row_is_mixed_with_itself_and_pictures_stay_pictures():
    one = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(mixes_of(one, 2, alpha=1.0, rng=np.random.default_rng(0)), one.expand(2, -1, -1, -1))
    many = torch.rand(5, 3, 4, 4)
    mixes = mixes_of(many, 50, alpha=1.0, rng=np.random.default_rng(0))
    assert mixes.shape == (50, 3, 4, 4) and mixes.dtype == torch.float32
    assert mixes.min() >= 0 and mixes.max() <= 1


@pytest.mark.parametrize("ratio, mixes", [(1.0, 6), (0.5, 3), (2.0, 12)])
def test_mixes_follow_the_batch_and_carry_neither_label_nor_id(ratio, mixes):
    batch = _batch()
    extended = Extended(ratio=ratio)(batch, STEP)
    assert len(extended) == 6 + mixes
    for name in ("inputs", "labels", "ids", "is_labelled"):
        assert torch.equal(getattr(extended, name)[:6], getattr(batch, name))
    assert extended.labels[6:].tolist() == extended.ids[6:].tolist() == [-1] * mixes
    assert not extended.is_labelled[6:].any()
    torch.testing.assert_close(extended.inputs[6:].sum(dim=(1, 2, 3)), torch.ones(mixes))


def test_mixes_depend_on_the_step_alone():
    view = Extended()
    one = view(_batch(), STEP)
    torch.rand(3)
    assert torch.equal(one.inputs, view(_batch(), STEP).inputs)
    assert not torch.equal(one.inputs, view(_batch(), Step(4, 10, 0, seed=5)).inputs)
    assert not torch.equal(one.inputs, view(_batch(), Step(3, 10, 0, seed=6)).inputs)


def test_the_view_mixed_leaves_nothing_but_mixes():
    batch = _batch()
    mixed = Mixed()(batch, STEP)
    assert torch.equal(mixed.inputs, Extended()(batch, STEP).inputs[6:])
    assert len(mixed) == 6 and not mixed.is_labelled.any() and (mixed.labels == -1).all()


def test_options_and_inputs_that_make_no_mixes_are_refused():
    for view, options in ((Extended, {"ratio": -0.1}), (Extended, {"alpha": 0.0}), (Mixed, {"alpha": -1.0})):
        with pytest.raises(ConfigError, match="alpha"):
            view(**options)
    tokens = Batch(torch.zeros(2, 5).long(), torch.zeros(2).long(), torch.arange(2), torch.ones(2).bool())
    for view in (Extended(), Mixed()):
        with pytest.raises(ConfigError, match="tokens"):
            view(tokens, STEP)


def _with_view(*views, name="xcl"):
    recipe = load_recipe(name)
    (stage,) = recipe.stages
    stage = Recipe(name="t", title="t", stages=[{**stage.model_dump(), "views": views}]).stages[0]
    return recipe.model_copy(update={"stages": (stage,)})


def _equal(one, other):
    one, other = one.student.state_dict(), other.student.state_dict()
    return all(torch.equal(one[name], other[name]) for name in other)


def test_without_mixes_it_is_kd(run):
    terms = [{"type": "cross-entropy"}, {"type": "kd", "temperature": 1.0}]
    kd = run(Recipe(name="kd", title="kd", stages=[{"name": "student", "terms": terms}]))
    assert _equal(run(_with_view({"type": "extended", "ratio": 0.0})), kd)
    assert not _equal(run("xcl"), kd)


def test_no_term_reads_the_labels_of_mixes(run, monkeypatch):
    def poison(batch, step):
        labels = batch.labels.where(batch.is_labelled, (torch.arange(len(batch)) * 7) % 4)
        return Batch(batch.inputs, labels, batch.ids, batch.is_labelled)

    monkeypatch.setitem(VIEWS._items, "poison", lambda: poison)
    assert _equal(run(_with_view("extended", "poison")), run(_with_view("extended")))


@pytest.mark.parametrize("name", ["xcl", "mixup-kd"])
def test_the_teacher_sees_exactly_the_rows_that_the_student_sees(run, monkeypatch, name):
    from edgekd.distill.net import TracedNet

    seen = []
    forward = TracedNet.forward

    def spy(self, inputs):
        if len(inputs) > 2 and self.taps == () and not torch.is_inference_mode_enabled():
            seen.append((self.training, inputs))
        return forward(self, inputs)

    monkeypatch.setattr(TracedNet, "forward", spy)
    run(name)
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert len(pairs) == 8
    rows = 64 if name == "xcl" else 32
    for (_, student), (_, teacher) in pairs:
        assert torch.equal(student, teacher) and len(student) == rows


def test_cross_entropy_is_the_mean_over_real_rows_and_kd_over_all():
    batch = Extended(ratio=0.5)(_batch(4), STEP)
    rng = np.random.default_rng(1)
    student, teacher = (rng.normal(size=(6, 4)) for _ in range(2))
    traces = [Trace(torch.tensor(logits), {}, {}, batch.inputs) for logits in (student, teacher)]
    logs, targets = log_softmax(student, axis=1), log_softmax(teacher, axis=1)
    by_hand = {
        "cross-entropy": -np.mean([logs[row, row] for row in range(4)]),
        "kd": np.mean([(np.exp(targets[row]) * (targets[row] - logs[row])).sum() for row in range(6)]),
    }
    (stage,) = load_recipe("xcl").stages
    shapes = TraceSpec(4, {}, "")
    for term in stage.terms:
        values = build_term(term.type, shapes, shapes, term.options)(*traces, batch, STEP)
        assert term.weight == 1.0
        assert values.mean().item() == pytest.approx(by_hand[term.type], rel=1e-12)
