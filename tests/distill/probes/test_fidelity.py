"""Agreement and divergence against numpy; ensembles average probabilities, not logits."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.distill import outputs_of
from edgekd.distill.probes import Ensemble, ensemble_logits, fidelity


def test_figures_equal_numpy(models, split):
    figures = fidelity(models, split)
    teacher = outputs_of(models["teacher"], split).double().numpy()
    for prefix, role in (("", "student"), ("independent.", "independent")):
        logits = outputs_of(models[role], split).double().numpy()
        agreement = np.mean(logits.argmax(axis=1) == teacher.argmax(axis=1))
        kl = rel_entr(softmax(teacher, axis=1), softmax(logits, axis=1)).sum(axis=1).mean()
        assert figures[f"{prefix}agreement"] == pytest.approx(agreement)
        assert figures[f"{prefix}kl"] == pytest.approx(kl, rel=1e-6)
        assert figures[f"{prefix}accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == split.labels))
        nll = -np.log(softmax(logits, axis=1)[np.arange(len(split)), split.labels]).mean()
        assert figures[f"{prefix}nll"] == pytest.approx(nll, rel=1e-6)
    assert figures["teacher.accuracy"] == pytest.approx(np.mean(teacher.argmax(axis=1) == split.labels))


def test_other_tasks_have_their_score(split):
    from edgekd.data import Split, Task
    from edgekd.distill import evaluate, fidelity_of

    rng = np.random.default_rng(0)
    wanted = Split(split.inputs, rng.normal(size=(60, 2)).astype(np.float32), Task("regression", ("x", "y")))
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for _ in range(2))
    figures = fidelity({"teacher": teacher, "student": student}, wanted)
    outputs = [outputs_of(network, wanted) for network in (student, teacher)]
    assert {name: figures[name] for name in ("agreement", "kl")} == fidelity_of(*outputs, wanted.task)
    assert figures["teacher.score"] == evaluate(teacher, wanted).score
    assert "accuracy" not in figures


def test_it_is_not_symmetric_in_the_two_networks(models, split):
    forth = fidelity({"teacher": models["teacher"], "student": models["student"]}, split)
    back = fidelity({"teacher": models["student"], "student": models["teacher"]}, split)
    assert forth["agreement"] == back["agreement"]
    assert forth["kl"] != pytest.approx(back["kl"], rel=0.01)


def test_ensembles_average_probabilities():
    rng = np.random.default_rng(0)
    members = rng.normal(0, 3, (3, 5, 4))
    combined = ensemble_logits([torch.from_numpy(member) for member in members]).exp().numpy()
    assert combined == pytest.approx(softmax(members, axis=2).mean(axis=0))
    assert np.abs(combined - softmax(members.mean(axis=0), axis=1)).max() > 0.05


def test_an_ensemble_is_a_teacher_like_any_other(models, split):
    members = [models["independent"], models["another"]]
    figures = fidelity({"teacher": Ensemble(members), "student": models["student"]}, split)
    mean = np.mean([softmax(outputs_of(member, split).double().numpy(), axis=1) for member in members], axis=0)
    assert figures["teacher.accuracy"] == pytest.approx(np.mean(mean.argmax(axis=1) == split.labels))
    student = softmax(outputs_of(models["student"], split).double().numpy(), axis=1)
    assert figures["kl"] == pytest.approx(rel_entr(mean, student).sum(axis=1).mean(), rel=1e-5)


def test_an_ensemble_of_one_is_that_network(models, split):
    figures = fidelity({"teacher": models["teacher"], "student": Ensemble([models["teacher"]])}, split)
    assert figures["agreement"] == 1.0
    assert figures["kl"] == pytest.approx(0, abs=1e-9)


def test_an_empty_ensemble_is_refused():
    with pytest.raises(ConfigError, match="at least one network"):
        Ensemble([])


def test_distillation_raises_agreement_over_an_independent_student(run, dataset, teacher, models):
    from edgekd.distill import TrainSettings

    settings = TrainSettings(epochs=12, batch_size=32, augment="none", device="cpu")
    roles = {"teacher": teacher[1], "student": run("kd", settings=settings).student}
    start = {**roles, "student": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))}
    assert fidelity(roles, dataset.test)["kl"] < 0.5 * fidelity(start, dataset.test)["kl"]
