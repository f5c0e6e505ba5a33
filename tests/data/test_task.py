"""What a task says about labels, outputs and answers."""

import numpy as np
import pytest
from sklearn.metrics import r2_score

from edgekd.core.errors import DataError
from edgekd.data import IGNORED, KINDS, ArrayImages, Split, Task

CLASSES = Task("classification", ("a", "b", "c"))
MAPS = Task("segmentation", ("a", "b", "c"))
VALUES = Task("regression", ("angle", "scale"))


def test_outputs_are_logits_or_means_and_log_variances():
    assert [task.num_outputs for task in (CLASSES, MAPS, VALUES)] == [3, 3, 4]
    assert [task.is_dense for task in (CLASSES, MAPS, VALUES)] == [False, True, False]
    assert {CLASSES.kind, MAPS.kind, VALUES.kind} == set(KINDS)


def test_answers_have_the_form_of_labels():
    logits = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    MAPS.check_labels(MAPS.answers(logits))
    CLASSES.check_labels(CLASSES.answers(logits[:, :, 0, 0]))
    outputs = logits[:, 0].reshape(5, 16)[:, :4]
    np.testing.assert_array_equal(VALUES.answers(outputs), outputs[:, :2])


def test_agreement_is_the_share_of_equal_answers():
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 6, 3, 4, 4)).astype(np.float32)
    assert MAPS.agreement(one, other) == np.mean(one.argmax(1) == other.argmax(1))
    assert CLASSES.agreement(one[:, :, 0, 0], other[:, :, 0, 0]) == np.mean(
        one[:, :, 0, 0].argmax(1) == other[:, :, 0, 0].argmax(1)
    )
    assert MAPS.agreement(one, one) == 1.0


def test_agreement_of_values_is_r_squared_with_the_reference_as_truth():
    rng = np.random.default_rng(2)
    mine, reference = rng.normal(size=(2, 20, 4)).astype(np.float32)
    expected = r2_score(reference[:, :2], mine[:, :2], multioutput="uniform_average")
    assert VALUES.agreement(mine, reference) == pytest.approx(expected, abs=1e-5)
    assert VALUES.agreement(mine, reference) != pytest.approx(VALUES.agreement(reference, mine), abs=1e-3)


def test_one_answer_to_everything_scores_at_most_no_skill():
    labels = np.arange(30) % 3
    assert CLASSES.metric.of(np.eye(3, dtype=np.float32)[np.zeros(30, int)], labels) == pytest.approx(CLASSES.no_skill)
    maps = np.tile(labels[:, None, None], (1, 4, 4))
    constant = np.tile(np.array([1, 0, 0], np.float32)[None, :, None, None], (30, 1, 4, 4))
    assert 0 < MAPS.metric.of(constant, maps) <= MAPS.no_skill
    values = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    mean = np.tile(np.concatenate([values.mean(0), [0, 0]]).astype(np.float32), (30, 1))
    assert VALUES.metric.of(mean, values) == pytest.approx(VALUES.no_skill, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (CLASSES, np.zeros(3, np.uint8), r"classification needs int64 \[N\], got uint8 \[3\]"),
        (CLASSES, np.zeros((3, 1), np.int64), r"needs int64 \[N\]"),
        (CLASSES, np.array([0, 3]), "classes 0..3 do not fit 0..2"),
        (CLASSES, np.array([IGNORED]), "classes 255..255 do not fit"),
        (MAPS, np.zeros(3, np.int64), r"segmentation needs int64 \[N, H, W\]"),
        (MAPS, np.full((1, 2, 2), -1), r"classes -1..-1 do not fit 0..2 or 255 \(ignored\)"),
        (VALUES, np.zeros((3, 2)), r"regression needs float32 \[N, D\], got float64"),
        (VALUES, np.zeros((3, 1), np.float32), "1 values a row for 2 targets"),
        (VALUES, np.array([[0, np.nan]], np.float32), "1 of 2 values are NaN or infinite"),
    ],
)
def test_labels_of_another_task_are_refused(task, labels, message):
    with pytest.raises(DataError, match=message):
        task.check_labels(labels)


def test_ignored_pixels_are_labels_of_maps():
    MAPS.check_labels(np.full((1, 2, 2), IGNORED))


def test_tasks_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="at least one target"):
        Task("regression", ())
    with pytest.raises(DataError, match="256 classes of pixels"):
        Task("segmentation", tuple(map(str, range(256))))
    Task("segmentation", tuple(map(str, range(255))))


def test_only_rows_with_a_class_are_grouped_by_it():
    assert CLASSES.strata(np.array([2, 0, 1])).tolist() == [2, 0, 1]
    assert MAPS.strata(np.ones((3, 2, 2), np.int64)).tolist() == [0, 0, 0]
    assert VALUES.strata(np.ones((3, 2), np.float32)).tolist() == [0, 0, 0]


def test_split_refuses_maps_of_another_size_than_its_pictures():
    pictures = ArrayImages(np.zeros((2, 4, 4, 1), np.uint8))
    assert len(Split(pictures, np.zeros((2, 4, 4), np.int64), MAPS)) == 2
    with pytest.raises(DataError, match=r"label maps \(4, 5\) for pictures \(4, 4\)"):
        Split(pictures, np.zeros((2, 4, 5), np.int64), MAPS)
