"""Scores against scikit-learn and against sums written out, and their adding up over batches."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score, r2_score

from edgekd.core.errors import DataError
from edgekd.data.metrics import IGNORED, MEAN_IOU, R_SQUARED, TOP_1


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def _maps(rng, classes, count=6, side=5):
    logits = rng.normal(size=(count, classes, side, side)).astype(np.float32)
    labels = rng.integers(0, classes, (count, side, side))
    return logits, labels


def test_top_1_is_scikit_learns_accuracy(rng):
    logits, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 4, 50)
    assert TOP_1.of(logits, labels) == accuracy_score(labels, logits.argmax(1))


def test_mean_iou_is_scikit_learns_macro_jaccard_over_counted_pixels(rng):
    logits, labels = _maps(rng, 4)
    labels[rng.random(labels.shape) < 0.3] = IGNORED
    counted = labels != IGNORED
    expected = jaccard_score(labels[counted], logits.argmax(1)[counted], average="macro")
    assert MEAN_IOU.of(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_mean_iou_leaves_out_classes_that_nowhere_occur_and_counts_those_only_predicted():
    predicted = np.array([[[0, 0], [1, 2]]])
    logits = np.eye(5, dtype=np.float32)[predicted].transpose(0, 3, 1, 2)
    labels = np.array([[[0, 1], [1, 1]]])
    assert MEAN_IOU.of(logits, labels) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_mean_iou_ignores_what_is_predicted_in_ignored_pixels(rng):
    logits, labels = _maps(rng, 3)
    labels[:, 2:] = IGNORED
    other = logits.copy()
    other[:, :, 2:] = rng.normal(size=other[:, :, 2:].shape)
    assert MEAN_IOU.of(other, labels) == MEAN_IOU.of(logits, labels)


def test_r_squared_is_scikit_learns_mean_over_targets_and_ignores_variances(rng):
    labels = (rng.normal(size=(40, 3)) * [1, 2, 5] + [0, 3, -40]).astype(np.float32)
    means = labels + rng.normal(size=labels.shape) * 0.7
    outputs = np.concatenate([means, rng.normal(size=labels.shape)], axis=1).astype(np.float32)
    expected = r2_score(labels, outputs[:, :3], multioutput="uniform_average")
    assert R_SQUARED.of(outputs, labels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("means", [[0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.2]])
def test_r_squared_of_a_target_that_never_varies_is_scikit_learns(means):
    labels = np.full((4, 1), 0.1, np.float32)
    outputs = np.stack([np.float32(means), np.zeros(4, np.float32)], axis=1)
    assert R_SQUARED.of(outputs, labels) == r2_score(labels, outputs[:, :1])


@pytest.mark.parametrize("metric", [TOP_1, MEAN_IOU, R_SQUARED])
def test_scores_do_not_depend_on_how_batches_are_cut(rng, metric):
    if metric is R_SQUARED:
        outputs, labels = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)
    elif metric is MEAN_IOU:
        outputs, labels = _maps(rng, 3)
    else:
        outputs, labels = rng.normal(size=(6, 3)).astype(np.float32), rng.integers(0, 3, 6)
    cut = [(outputs[rows], labels[rows]) for rows in ([0, 1, 2], [3], [], [4, 5])]
    assert metric.over(cut) == pytest.approx(metric.of(outputs, labels), abs=1e-12)


def test_perfect_answers_score_1(rng):
    labels = rng.integers(0, 3, (4, 5, 5))
    one_hot = np.eye(3, dtype=np.float32)
    assert TOP_1.of(one_hot[labels[:, 0, 0]], labels[:, 0, 0]) == 1.0
    assert MEAN_IOU.of(one_hot[labels].transpose(0, 3, 1, 2), labels) == 1.0
    values = rng.normal(size=(9, 2)).astype(np.float32)
    assert R_SQUARED.of(np.concatenate([values, values], axis=1), values) == 1.0


def test_undefined_scores_are_refused(rng):
    with pytest.raises(DataError, match="top-1 cannot be measured on no inputs"):
        TOP_1.over([])
    with pytest.raises(DataError, match="every pixel is ignored"):
        MEAN_IOU.of(np.zeros((2, 3, 4, 4), np.float32), np.full((2, 4, 4), IGNORED))


def test_scores_and_their_gaps_are_printed_in_the_metrics_own_form():
    assert (TOP_1.text(0.912), TOP_1.gap(0.0167)) == ("top-1 91.20 %", "1.67 points")
    assert (R_SQUARED.text(-0.25), R_SQUARED.gap(0.0167)) == ("R² -0.250", "0.0167")
