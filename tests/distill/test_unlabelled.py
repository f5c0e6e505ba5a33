"""Training pictures without labels: what reads none takes them, what reads them leaves them out or is refused."""

import pytest
import torch
import torch.nn.functional as F

from edgekd.core.errors import ConfigError
from edgekd.data import UNLABELLED, Split, eval_batches
from edgekd.distill import Recipe, RunOptions, TrainSettings, evaluate, load_recipe, recipe_names, run_recipe
from edgekd.distill.blending import blended
from edgekd.distill.jobs import Job, save_job
from edgekd.distill.requirements import parts_of, requirements_of
from edgekd.distill.run import check_recipe
from edgekd.distill.step import Step
from edgekd.distill.terms import TERMS
from edgekd.distill.terms.labelled import over_labelled, safe_labels
from edgekd.distill.unlabelled import require_labels
from edgekd.models import build
from tests.distill.conftest import partly_labelled
from tests.distill.test_ranks import CLOSE, _difference, in_two_processes

SOME = slice(0, 60)
EVERY = slice(None)


def _recipe(*terms):
    return Recipe.model_validate(
        {"name": "own", "title": "own", "paper": "none", "stages": [{"name": "student", "terms": list(terms)}]}
    )


LABEL_FREE = {"type": "kd", "weight": 1.0, "temperature": 4.0}


def _trained(recipe, dataset, student, teacher, settings, **options):
    return run_recipe(
        recipe,
        student=student,
        teacher=teacher if recipe.needs_teacher else None,
        dataset=dataset,
        settings=settings,
        options=RunOptions(seed=3, **options),
    )


def test_a_recipe_that_reads_no_label_learns_from_pictures_that_have_none(dataset, student, teacher, settings):
    bare = partly_labelled(dataset, EVERY)
    recipe = _recipe(LABEL_FREE)
    outcomes = [_trained(recipe, one, student, teacher, settings) for one in (dataset, bare)]
    mine, theirs = (outcome.student.state_dict() for outcome in outcomes)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert outcomes[0].history[-1].val_score == outcomes[1].history[-1].val_score


def test_what_reads_labels_is_refused_where_there_are_none(dataset, student, teacher):
    bare, partly = partly_labelled(dataset, EVERY), partly_labelled(dataset, SOME)
    with pytest.raises(ConfigError, match=r"'kd' reads labels \(loss term 'cross-entropy'\) and no training picture"):
        check_recipe(load_recipe("kd"), student=student, teacher=teacher, dataset=bare, batch_size=32)
    with pytest.raises(ConfigError, match="loss term 'transformed-kd' of recipe 'sskd' reads the label of every"):
        check_recipe(load_recipe("sskd"), student=student, teacher=teacher, dataset=partly, batch_size=32)
    check_recipe(load_recipe("kd"), student=student, teacher=teacher, dataset=partly, batch_size=32)
    require_labels(load_recipe("sskd"), dataset.train)


def test_every_recipe_says_what_it_does_with_pictures_that_have_no_label(dataset):
    partly, refused = partly_labelled(dataset, SOME), []
    for name in recipe_names():
        try:
            require_labels(load_recipe(name), partly.train)
        except ConfigError:
            refused.append(name)
    assert refused == ["sskd"]


LEFT_OUT = sorted(
    {
        name
        for recipe in map(load_recipe, recipe_names())
        for registry, name in parts_of(recipe)
        if registry.kind == "loss term" and getattr(registry[name], "leaves_out_unlabelled", False)
    }
)


def test_the_terms_that_leave_rows_out_are_those_tried_here():
    assert LEFT_OUT == ["crd", "cross-entropy", "dkd", "nkd"]


@pytest.mark.parametrize("term", LEFT_OUT)
def test_terms_that_leave_rows_out_train_without_their_labels(dataset, student, teacher, settings, term):
    recipe = _recipe({"type": term, "weight": 1.0}, LABEL_FREE)
    outcome = _trained(recipe, partly_labelled(dataset, SOME), student, teacher, settings)
    assert all(torch.isfinite(value).all() for value in outcome.student.state_dict().values())
    labelled = _trained(recipe, dataset, student, teacher, settings)
    assert any(
        not torch.equal(value, labelled.student.state_dict()[name])
        for name, value in outcome.student.state_dict().items()
    ), "labels that are hidden must be missed"


def test_plain_training_with_rows_left_out_is_the_mean_over_the_others(dataset, student):
    batch = next(iter(eval_batches(partly_labelled(dataset, slice(3, 11)).train, batch_size=16)))
    assert batch.is_labelled.tolist() == [True] * 3 + [False] * 8 + [True] * 5
    torch.manual_seed(0)
    logits = torch.randn(16, 4)
    kept = [0, 1, 2, 11, 12, 13, 14, 15]
    mine = over_labelled(F.cross_entropy(logits, safe_labels(batch), reduction="none"), batch).mean()
    assert mine.item() == pytest.approx(F.cross_entropy(logits[kept], batch.labels[kept]).item(), rel=1e-6)


def test_evaluation_counts_rows_with_a_label_only(dataset, student):
    torch.manual_seed(0)
    network = build(student)
    train = dataset.train
    half = Split(train.inputs, train.labels.copy(), train.task)
    half.labels[64:] = UNLABELLED
    rows = Split(_First(train.inputs, 64), train.labels[:64], train.task)
    mine, theirs = evaluate(network, half), evaluate(network, rows)
    assert mine.score == theirs.score
    assert mine.nll == pytest.approx(theirs.nll, rel=1e-6)


class _First:
    def __init__(self, inputs, count):
        self._inputs, self._count = inputs, count
        self.shape = inputs.shape

    def __len__(self):
        return self._count

    def gather(self, indices):
        return self._inputs.gather(indices)


def test_mixtures_with_a_row_that_has_no_label_have_none(dataset):
    batch = next(iter(eval_batches(partly_labelled(dataset, slice(0, 8)).train, batch_size=16)))
    mixed = blended(batch, Step(0, 1, 0), TrainSettings(mixup=1.0))
    assert mixed.blend is not None
    assert int(mixed.blend.labels.min()) >= 0
    assert not mixed.is_labelled[:8].any()


def test_mixed_inputs_train_with_rows_that_have_no_label(dataset, student, teacher, settings):
    outcome = _trained(
        load_recipe("kd"), partly_labelled(dataset, SOME), student, teacher, settings.model_copy(update={"mixup": 0.4})
    )
    assert all(torch.isfinite(value).all() for value in outcome.student.state_dict().values())


def test_contrast_takes_no_negatives_from_rows_without_a_label():
    term = TERMS["crd"].__new__(TERMS["crd"])
    torch.nn.Module.__init__(term)
    term._labels, term.negatives = torch.tensor([0, -1, 1, -1, 0, 2]), 99
    rows = term._rows(torch.tensor([0, 4]), torch.Generator().manual_seed(0))
    assert {tuple(sorted(row[1:])) for row in rows.tolist()} == {(2, 5)}


def test_two_processes_count_labelled_rows_together(dataset, student, teacher, settings, tmp_path):
    """Rows 0..59 have no label, and fall unevenly on the two processes."""
    partly = partly_labelled(dataset, slice(0, 60))
    how = settings.model_copy(update={"epochs": 1, "lr": 0.02, "select": "last"})
    job = Job(load_recipe("kd"), student, teacher, partly.digest, how, RunOptions(seed=3))
    save_job(job, tmp_path / "kd")
    (tmp_path / "kd" / "partly-labelled").touch()
    in_two_processes([tmp_path / "kd"])
    assert _difference(tmp_path / "kd", job.run(partly)) < CLOSE


def test_labels_are_what_the_requirements_say():
    assert "labels" in requirements_of(load_recipe("kd"))
    assert "labels" not in requirements_of(_recipe(LABEL_FREE))
