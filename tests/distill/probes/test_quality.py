"""Metrics beyond accuracy against scikit-learn, scipy and loops in numpy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, f1_score, log_loss, top_k_accuracy_score

from edgekd.distill import outputs_of
from edgekd.distill.probes import calibration, expected_calibration_error, macro_f1, predictive_entropy
from edgekd.distill.probes.quality import accuracy, negative_log_likelihood, top_k_accuracy


@pytest.fixture(params=[3, 7])
def case(request):
    rng = np.random.default_rng(request.param)
    return rng.normal(0, 2, (200, request.param)), rng.integers(0, request.param, 200)


def _tensors(case):
    return torch.from_numpy(case[0]), torch.from_numpy(case[1])


def _ece(probabilities, labels, bins):
    confidence, decided = probabilities.max(axis=1), probabilities.argmax(axis=1)
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            total += inside.mean() * abs((decided == labels)[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("bins", [10, 15])
def test_ece_equals_a_loop_over_bins(case, bins):
    logits, labels = _tensors(case)
    expected = _ece(softmax(case[0], axis=1), case[1], bins)
    assert expected_calibration_error(logits, labels, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_ece_of_certain_answers_is_their_error_rate():
    logits = torch.tensor([[100.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 0.0]])
    assert expected_calibration_error(logits, torch.tensor([0, 1, 1, 0])) == pytest.approx(0.25)


def test_metrics_equal_those_of_scikit_learn_and_scipy(case):
    logits, labels = _tensors(case)
    probabilities, decided = softmax(case[0], axis=1), case[0].argmax(axis=1)
    classes = np.arange(case[0].shape[1])
    assert accuracy(logits, labels) == pytest.approx(accuracy_score(case[1], decided))
    assert negative_log_likelihood(logits, labels) == pytest.approx(log_loss(case[1], probabilities, labels=classes))
    assert macro_f1(logits, labels) == pytest.approx(f1_score(case[1], decided, average="macro"))
    assert predictive_entropy(logits) == pytest.approx(entropy(probabilities, axis=1).mean())
    expected = top_k_accuracy_score(case[1], probabilities, k=2, labels=classes)
    assert top_k_accuracy(logits, labels, k=2) == pytest.approx(expected)


def test_f1_leaves_out_classes_that_do_not_occur():
    logits = torch.eye(4, dtype=torch.float64)[[0, 0, 1]]
    labels = torch.tensor([0, 1, 1])
    assert macro_f1(logits, labels) == pytest.approx(f1_score(labels, [0, 0, 1], average="macro"))


def test_top_k_of_fewer_classes_is_always_right(case):
    assert top_k_accuracy(*_tensors(case), k=99) == 1.0


def test_calibration_reports_every_role(models, split):
    figures = calibration(models, split)
    for prefix, role in (("", "student"), ("independent.", "independent"), ("teacher.", "teacher")):
        logits = outputs_of(models[role], split).double().numpy()
        assert figures[f"{prefix}ece"] == pytest.approx(_ece(softmax(logits, axis=1), split.labels, 10), abs=1e-6)
        assert figures[f"{prefix}macro_f1"] == pytest.approx(
            f1_score(split.labels, logits.argmax(axis=1), average="macro")
        )
        assert figures[f"{prefix}top5"] == 1.0
