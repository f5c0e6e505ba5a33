import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError, DataError, ParityError
from edgekd.data import Task
from edgekd.export import ParityReport, export_onnx, parity, require_parity, task_parity

SHAPE = (1, 2, 2)
THREE = Task("classification", tuple("abc"))


class Bright(nn.Module):
    """Linear, plus a term that only very bright images switch on."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return self.fc(flat) + self.gain * torch.relu(flat.sum(1, keepdim=True) - 3.99)


@pytest.fixture(scope="module")
def bright():
    torch.manual_seed(1)
    return Bright(1.0)


@pytest.fixture(scope="module")
def bright_model(bright, tmp_path_factory):
    return export_onnx(bright, tmp_path_factory.mktemp("parity") / "net.onnx", input_shape=SHAPE)


def changed(net, **values):
    other = Bright(1.0)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        for name, value in values.items():
            other.get_parameter(name.replace("__", ".")).copy_(value)
    return other


def test_parity_holds_for_an_export_in_train_mode_too(make_net, model, images):
    net = make_net().train()
    report = parity(net, model, images, task=Task("classification", tuple("abcdefghij")))
    require_parity(report)
    assert net.training
    assert report.batches == (1, 3, 8)
    assert report.n == 3 * (len(images) + 16)
    assert report.agreement == 1.0
    assert 0 < report.max_abs < 1e-5


def test_parity_uses_the_fixed_batch(net, images, tmp_path):
    model = export_onnx(net, tmp_path / "net.onnx", input_shape=(3, 8, 8), batch=4)
    report = parity(net, model, images)
    assert report.is_ok
    assert report.batches == (4,)


def test_parity_measures_a_known_difference(bright, bright_model):
    images = np.zeros((2, *SHAPE), np.float32)
    shifted = changed(bright, fc__bias=bright.fc.bias + torch.tensor([0.0, 0.25, 0.0]))
    report = parity(shifted, bright_model, images)
    assert report.max_abs == pytest.approx(0.25, abs=1e-5)
    assert not report.is_ok


def test_parity_divides_by_the_root_mean_square(bright, bright_model):
    images = np.zeros((2, *SHAPE), np.float32)
    constant = changed(bright, fc__weight=torch.zeros(3, 4), fc__bias=torch.full((3,), 50.0), gain=torch.tensor(0.0))
    report = parity(constant, bright_model, images)
    assert report.max_rel == pytest.approx(report.max_abs / 50.0, rel=1e-6)


def test_parity_sees_on_random_images_what_real_ones_hide(bright, bright_model):
    dark = np.zeros((4, *SHAPE), np.float32)
    other = changed(bright, fc__weight=bright.fc.weight * 1.5)
    assert not parity(other, bright_model, dark).is_ok


def test_parity_sees_on_real_images_what_random_ones_hide(bright, bright_model):
    other = changed(bright, gain=torch.tensor(30.0))
    assert parity(other, bright_model, np.full((4, *SHAPE), 0.5, np.float32)).is_ok
    assert not parity(other, bright_model, np.ones((4, *SHAPE), np.float32)).is_ok


def test_parity_random_images_depend_on_the_seed_only(make_net, model, images):
    net = make_net()
    with torch.no_grad():
        net.fc.weight.mul_(1.01)
    first, again, other = (parity(net, model, images[:1], seed=seed).max_abs for seed in (0, 0, 1))
    assert first == again != other


def test_require_parity_puts_the_numbers_into_the_message(bright, bright_model):
    other = changed(bright, fc__bias=bright.fc.bias + 0.25)
    report = parity(other, bright_model, np.zeros((2, *SHAPE), np.float32))
    with pytest.raises(ParityError, match=r"differ by at most 0\.25 .*tolerance 0\.0001.* on 54 inputs"):
        require_parity(report)


def test_parity_is_broken_when_logits_are_not_finite(bright, bright_model):
    other = changed(bright, fc__bias=torch.full((3,), float("nan")))
    report = parity(other, bright_model, np.zeros((2, *SHAPE), np.float32))
    assert report.max_abs == report.max_rel == float("inf")
    assert not report.is_ok


def test_parity_refuses_another_number_of_classes(bright_model):
    with pytest.raises(ParityError, match=re.escape("(54, 2)") + ".*" + re.escape("(54, 3)")):
        parity(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), bright_model, np.zeros((2, *SHAPE), np.float32))


def test_parity_needs_a_tolerance_for_int8(bright, bright_model):
    int8 = dataclasses.replace(bright_model, precision="int8")
    images = np.zeros((2, *SHAPE), np.float32)
    with pytest.raises(ConfigError, match="no default tolerance"):
        parity(bright, int8, images)
    assert parity(bright, int8, images, tolerance=0.5).tolerance == 0.5


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, *SHAPE), np.float32),
        np.zeros((2, 1, 2, 3), np.float32),
        np.zeros((2, *SHAPE), np.float64),
        np.full((2, *SHAPE), np.nan, np.float32),
    ],
)
def test_parity_refuses_unusable_images(bright, bright_model, images):
    with pytest.raises(DataError, match="parity"):
        parity(bright, bright_model, images)


def test_parity_report_is_ok_up_to_its_tolerance():
    report = ParityReport(1.0, 1e-4, 1.0, 3, 1e-4, (1,))
    assert report.is_ok
    assert not dataclasses.replace(report, max_rel=1.01e-4).is_ok


def test_task_parity_counts_images_by_hand():
    first = np.array([[2, 1, 0], [0, 3, 1], [0, 1, 5], [9, 1, 2]], np.float32)
    second = np.array([[2, 1, 0], [4, 3, 1], [0, 1, 5], [9, 1, 2]], np.float32)
    result = task_parity(first, second, np.array([0, 1, 2, 1]), THREE)
    assert (result.score_a, result.score_b, result.agreement, result.n) == (0.75, 0.5, 0.75, 4)
    with pytest.raises(ParityError, match=r"top-1 is 0\.75000.*0\.50000.*4 inputs \(agreement of answers 0\.7500"):
        require_parity(result)


def test_task_parity_holds_when_errors_swap_but_says_so():
    first = np.array([[1, 0], [1, 0]], np.float32)
    second = np.array([[0, 1], [0, 1]], np.float32)
    result = task_parity(first, second, np.array([0, 1]), Task("classification", ("a", "b")))
    assert result.is_ok
    assert result.agreement == 0.0


@pytest.mark.parametrize(
    ("shape", "labels"),
    [((2, 3), [0, 1, 2]), ((0, 3), []), ((2, 3), [0, 3]), ((2, 3), [-1, 0])],
)
def test_task_parity_refuses_labels_that_do_not_fit(shape, labels):
    logits = np.zeros(shape, np.float32)
    with pytest.raises(DataError):
        task_parity(logits, logits, np.array(labels, np.int64), THREE)


def test_task_parity_refuses_logits_of_different_shapes():
    with pytest.raises(DataError, match="same inputs"):
        task_parity(
            np.zeros((2, 3), np.float32),
            np.zeros((2, 4), np.float32),
            np.array([0, 1]),
            THREE,
        )
