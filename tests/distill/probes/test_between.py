"""KL between data points: against numpy on mixes made by hand, and what it is for."""

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from edgekd.core.errors import ConfigError
from edgekd.distill import TrainSettings
from edgekd.distill.mixing import mixes_of
from edgekd.distill.probes import PROBES, between_points_kl
from edgekd.distill.probes.pictures import chance_of
from edgekd.distill.recipe import Recipe


def _answers(network, inputs):
    with torch.no_grad():
        return network.eval()(inputs).double().numpy()


def test_figures_equal_numpy_on_the_same_mixes(models, split, pixels_of):
    figures = between_points_kl(models, split, alpha=0.5, seed=3)
    mixes = mixes_of(pixels_of(split), 60, alpha=0.5, rng=chance_of(3, "between"))
    teacher = softmax(_answers(models["teacher"], mixes), axis=1)
    for prefix, role in (("", "student"), ("independent.", "independent")):
        student = softmax(_answers(models[role], mixes), axis=1)
        assert figures[f"{prefix}kl"] == pytest.approx(rel_entr(teacher, student).sum(axis=1).mean(), rel=1e-5)
        assert figures[f"{prefix}agreement"] == np.mean(student.argmax(axis=1) == teacher.argmax(axis=1))


def test_labels_take_no_part_and_alpha_must_be_positive(models, split):
    relabelled = type(split)(split.inputs, 3 - split.labels, split.task)
    assert between_points_kl(models, split) == between_points_kl(models, relabelled)
    with pytest.raises(ConfigError, match="alpha is 0"):
        PROBES["between-points-kl"](models, split, alpha=0.0)


def test_training_on_mixes_lowers_it(run, dataset, teacher):
    settings = TrainSettings(epochs=8, batch_size=32, augment="none", device="cpu")
    terms = [{"type": "cross-entropy"}, {"type": "kd", "temperature": 1.0}]
    figures = []
    for ratio in (0.0, 1.0):
        stage = {"name": "student", "views": [{"type": "extended", "ratio": ratio}], "terms": terms}
        recipe = Recipe(name="t", title="t", stages=[stage])
        values = []
        for seed in range(2):
            networks = {"teacher": teacher[1], "student": run(recipe, settings=settings, seed=seed).student}
            values.append(between_points_kl(networks, dataset.test)["kl"])
        figures.append(np.mean(values))
    assert figures[1] < 0.9 * figures[0]
