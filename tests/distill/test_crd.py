"""CRD: who is compared with whom, how the banks follow, when the constants are set, and what it may not read."""

import math

import numpy as np
import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.data import Batch
from edgekd.distill import load_recipe
from edgekd.distill.recipe import Recipe
from edgekd.distill.terms import Preparation, Step, build_term
from edgekd.distill.trace import Trace, TraceSpec

STUDENT, TEACHER = TraceSpec(3, {"f": (5,)}, "f"), TraceSpec(3, {"g": (7,)}, "g")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0, 0])


def _term(notes=None, **options):
    torch.manual_seed(0)
    term = build_term("crd", STUDENT, TEACHER, {"embedding_width": 4, **options})
    note = (lambda message: None) if notes is None else notes.append
    term.prepare(Preparation(LABELS, 3, torch.device("cpu"), lambda rows: iter(()), seed=1, note=note))
    return term


def _batch(ids, unlabelled=()):
    ids = torch.tensor(ids)
    is_labelled = torch.tensor([i not in unlabelled for i in range(len(ids))])
    return Batch(torch.zeros(len(ids), 1, 2, 2), LABELS[ids], ids, is_labelled)


def _traces(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(rows, 5, generator=generator, requires_grad=True)
    g = torch.randn(rows, 7, generator=generator, requires_grad=True)
    inputs = torch.zeros(rows, 1, 2, 2)
    return Trace(torch.zeros(rows, 3), {"f": f}, {}, inputs), Trace(torch.zeros(rows, 3), {"g": g}, {}, inputs)


def _unit(vector):
    return vector / math.sqrt(sum(x * x for x in vector))


def _embedded(head, feature):
    weight, bias = (parameter.detach().double().numpy() for parameter in (head.weight, head.bias))
    return [_unit(weight @ row + bias) for row in feature.detach().double().numpy()]


def _loss_by_hand(embeddings, bank, rows, temperature, normaliser):
    """The authors' code with loops: critic, noise, constant from the first batch when there is none yet."""
    critic = [[math.exp(e @ bank[row] / temperature) for row in own] for e, own in zip(embeddings, rows, strict=True)]
    if normaliser is None:
        normaliser = len(bank) * sum(map(sum, critic)) / sum(map(len, critic))
    noise = (len(rows[0]) - 1) / len(bank)
    losses = []
    for own, *others in critic:
        losses.append(-math.log(own / normaliser / (own / normaliser + noise)))
        losses[-1] -= sum(math.log(noise / (other / normaliser + noise)) for other in others)
    return losses, normaliser


def test_values_banks_and_constants_follow_the_authors_code_over_two_steps():
    term, constants = _term(temperature=0.5, momentum=0.25), [None, None]
    banks = [term.student_bank.double().numpy(), term.teacher_bank.double().numpy()]
    for index, ids in enumerate([[0, 1, 2], [2, 3, 0]]):
        step = Step(index, 10, 0)
        student, teacher = _traces(3, seed=index)
        rows = term._rows(torch.tensor(ids), step.generator("crd")).tolist()
        mine, theirs = (
            _embedded(term.student_head, student.feats["f"]),
            _embedded(term.teacher_head, teacher.feats["g"]),
        )
        first, constants[0] = _loss_by_hand(mine, banks[1], rows, 0.5, constants[0])
        second, constants[1] = _loss_by_hand(theirs, banks[0], rows, 0.5, constants[1])
        values = term(student, teacher, _batch(ids), step)
        np.testing.assert_allclose(values.detach().numpy(), np.add(first, second), rtol=1e-5)
        for bank, embeddings in zip(banks, (mine, theirs), strict=True):
            for row, embedding in zip(ids, embeddings, strict=True):
                bank[row] = _unit(0.25 * bank[row] + 0.75 * embedding)
        np.testing.assert_allclose(term.student_bank.numpy(), banks[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(term.teacher_bank.numpy(), banks[1], rtol=1e-5, atol=1e-6)


def test_both_heads_and_the_student_learn_and_the_teachers_feature_does_not():
    term = _term()
    student, teacher = _traces(3)
    term(student, teacher, _batch([0, 1, 2]), Step(0, 1, 0)).mean().backward()
    assert student.feats["f"].grad.abs().sum() > 0 and teacher.feats["g"].grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in term.parameters())


def test_the_own_row_comes_first_and_negatives_are_other_classes_once_each():
    term = _term()
    rows = term._rows(torch.tensor([0, 1, 5]), Step(0, 1, 0).generator("crd"))
    assert rows.shape == (3, 1 + 5)
    for own, *others in rows.tolist():
        assert len(set(others)) == len(others)
        assert all(LABELS[other] != LABELS[own] for other in others)
    assert rows[:, 0].tolist() == [0, 1, 5]


def test_negatives_are_drawn_evenly_anew_for_each_sample_and_step_and_equal_for_equal_steps():
    term = _term(negatives=2)
    drawn = [term._rows(torch.tensor([1, 1]), Step(i, 1, 0).generator("crd"))[:, 1:] for i in range(600)]
    counts = torch.bincount(torch.cat(drawn).flatten(), minlength=10)
    assert counts[LABELS == 1].sum() == 0
    expected = 600 * 2 * 2 / 7
    assert (counts[LABELS != 1] - expected).abs().max() < 5 * math.sqrt(expected)
    assert any(not torch.equal(rows[0], rows[1]) for rows in drawn)
    assert torch.equal(drawn[3], term._rows(torch.tensor([1, 1]), Step(3, 1, 0).generator("crd"))[:, 1:])


def test_it_never_takes_more_negatives_than_the_data_allow_and_says_so():
    notes = []
    assert _term(notes).negatives == 5
    assert "5 negatives instead of 16384" in notes[0]
    assert _term(notes, negatives=3).negatives == 3
    assert len(notes) == 1


def test_rows_without_a_label_are_neither_compared_nor_remembered():
    whole, part = _term(), _term()
    student, teacher = _traces(4)
    fewer = [Trace(t.logits[:2], {k: v[:2] for k, v in t.feats.items()}, {}, t.inputs[:2]) for t in (student, teacher)]
    step = Step(0, 1, 0)
    values = whole(student, teacher, _batch([0, 1, 2, 3], unlabelled=(2, 3)), step)
    expected = part(*fewer, _batch([0, 1]), step)
    torch.testing.assert_close(values.mean(), expected.mean())
    assert values[2:].tolist() == [0.0, 0.0]
    assert torch.equal(whole.student_bank, part.student_bank)


def test_a_task_of_one_class_and_senseless_options_are_refused():
    term = build_term("crd", STUDENT, TEACHER, {})
    with pytest.raises(ConfigError, match="another class"):
        term.prepare(Preparation(torch.zeros(4, dtype=torch.int64), 1, torch.device("cpu"), lambda rows: iter(())))
    for options in ({"temperature": 0.0}, {"negatives": 0}, {"momentum": 1.0}, {"embedding_width": 0}):
        with pytest.raises(ConfigError, match="crd: embedding_width"):
            build_term("crd", STUDENT, TEACHER, options)


def test_without_its_term_it_is_plain_training(run):
    recipe = load_recipe("crd")
    (stage,) = recipe.stages
    terms = tuple(t.model_copy(update={"weight": 0.0}) if t.type == "crd" else t for t in stage.terms)
    silent = recipe.model_copy(update={"stages": (stage.model_copy(update={"terms": terms}),)})
    one, other = run(silent).student.state_dict(), run("plain", with_teacher=False).student.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_the_run_tells_how_many_negatives_it_takes(run):
    events = []
    run(Recipe(name="t", title="t", stages=[{"name": "s", "terms": [{"type": "crd"}]}]), listener=events.append)
    notes = [event for event in events if event.kind == "note"]
    assert [(note.stage, note.message[:24]) for note in notes] == [("s", "crd: 96 negatives instea")]
