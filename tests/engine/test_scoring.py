import numpy as np
import pytest

from edgekd.core.errors import BuildError, DataError
from edgekd.data import Task
from edgekd.engine import BACKENDS, BuildOptions, FakeRunner, InputShape, score_of
from edgekd.targets import get_target

SHAPE = (1, 1, 4)
TASK = Task("classification", tuple("abcd"))


def one_hot_runner(min_batch=1, max_batch=0):
    """Logits are the four pixels of a picture."""
    return FakeRunner(lambda x: x[:, 0, 0, :].copy(), InputShape(SHAPE, min_batch, max_batch))


def pictures(classes):
    return np.eye(4, dtype=np.float32)[classes].reshape(-1, *SHAPE)


def test_score_is_the_share_of_right_answers():
    batches = [(pictures([0, 1, 2]), np.array([0, 1, 3])), (pictures([3]), np.array([3]))]
    assert score_of(one_hot_runner(), batches, TASK) == 0.75


@pytest.mark.parametrize(("low", "high"), [(1, 0), (1, 3), (4, 4), (16, 16)])
def test_score_does_not_depend_on_the_engines_batch(low, high):
    rng = np.random.default_rng(0)
    truth, shown = rng.integers(0, 4, 11), rng.integers(0, 4, 11)
    batches = [(pictures(shown[:7]), truth[:7]), (pictures(shown[7:]), truth[7:])]
    assert score_of(one_hot_runner(low, high), batches, TASK) == (truth == shown).mean()


def test_score_through_a_real_engine_agrees_with_numpy(onnx_model, images, tmp_path):
    backend = BACKENDS["onnxruntime"]
    engine = backend.build(onnx_model("fp32", batch=4), tmp_path, BuildOptions(get_target("cpu"), batch=4))
    labels, ten = np.arange(8) % 10, Task("classification", tuple("0123456789"))
    with backend.open(engine) as runner:
        expected = np.concatenate([runner.run(images[:4]), runner.run(images[4:])]).argmax(1)
        assert score_of(runner, [(images, expected)], ten) == 1.0
        assert score_of(runner, [(images[:5], labels[:5])], ten) == (expected[:5] == labels[:5]).mean()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no inputs"),
        ([(pictures([0, 1]), np.array([0]))], r"2 inputs came with labels of shape \[1\]"),
        ([(pictures([0]), np.array([4]))], "classes 4..4 do not fit 0..3"),
        ([(pictures([0]), np.array([-1]))], "1 of 1 inputs have no label"),
        ([(pictures([0]), np.array([-2]))], "classes -2..-2 do not fit"),
    ],
)
def test_score_refuses_unusable_data(batches, message):
    with pytest.raises(DataError, match=message):
        score_of(one_hot_runner(), batches, TASK)


def test_score_refuses_nan_logits():
    runner = FakeRunner(lambda x: np.full((len(x), 4), np.nan, np.float32), InputShape(SHAPE))
    with pytest.raises(BuildError, match="NaN or infinite"):
        score_of(runner, [(pictures([0]), np.array([0]))], TASK)


def test_score_refuses_an_engine_with_outputs_of_another_length():
    with pytest.raises(BuildError, match="4 outputs where classification has 3"):
        score_of(one_hot_runner(), [(pictures([0]), np.array([0]))], Task("classification", tuple("abc")))


def test_fake_runner_keeps_the_runner_contract():
    calls = []
    runner = FakeRunner(lambda x: x[:, 0, 0, :], InputShape(SHAPE, max_batch=2), on_run=lambda: calls.append(1))
    with runner as opened:
        assert opened.run(pictures([1])).tolist() == [[0, 1, 0, 0]]
        with pytest.raises(DataError):
            opened.run(pictures([0, 1, 2]))
    assert (runner.runs, calls) == (1, [1])
    with pytest.raises(BuildError, match="closed"):
        runner.run(pictures([1]))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (InputShape((3, 8, 8)), "[1.., 3, 8, 8]"),
        (InputShape((3, 8, 8), 1, 4), "[1..4, 3, 8, 8]"),
        (InputShape((3, 8, 8), 4, 4), "[4, 3, 8, 8]"),
    ],
)
def test_input_shape_in_words(shape, words):
    assert str(shape) == words
