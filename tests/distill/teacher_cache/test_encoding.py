"""What is kept of outputs, against numpy in double precision."""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional

from edgekd.core.errors import ConfigError
from edgekd.data import Batch, SampleViews
from edgekd.distill.net import TracedNet
from edgekd.distill.step import Step
from edgekd.distill.teacher_cache.encoding import Layout
from edgekd.distill.teacher_cache.recall import Keeping, Recall

CPU = torch.device("cpu")


def _again(layout, values, dtype=torch.float32):
    records = layout.packed(values)
    assert records.dtype == np.uint8 and records.shape == (len(values), layout.row_bytes)
    return layout.unpacked(records, device=CPU, dtype=dtype)


@pytest.mark.parametrize("shape", [(10,), (4, 3, 2), (5, 8)])
def test_whole_outputs_are_rounded_once(shape):
    values = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0)) * 20
    assert torch.equal(_again(Layout(shape, "fp32"), values), values)
    rounded = torch.from_numpy(values.numpy().astype(np.float16).astype(np.float32))
    assert torch.equal(_again(Layout(shape, "fp16"), values), rounded)
    # Maps in any layout of memory, and in the type that mixed precision gives.
    if len(shape) == 3:
        last = values.contiguous(memory_format=torch.channels_last)
        assert torch.equal(_again(Layout(shape, "fp16"), last), rounded)
    half = _again(Layout(shape, "fp16"), values.bfloat16(), torch.bfloat16)
    assert half.dtype is torch.bfloat16 and torch.equal(half, values.bfloat16())


def test_what_fp16_does_not_hold_is_refused():
    values = torch.tensor([[1.0, 70_000.0]])
    with pytest.raises(ConfigError, match=r"7e\+04, more than fp16 holds \(65504\): set train.cache_dtype=fp32"):
        Layout((2,), "fp16").packed(values)
    assert torch.equal(_again(Layout((2,), "fp32"), values), values)
    unbounded = torch.tensor([[torch.inf, -torch.inf]])
    assert torch.equal(_again(Layout((2,), "fp16"), unbounded), unbounded)


@pytest.mark.parametrize(("stored", "tolerance"), [("fp16", 4e-3), ("fp32", 1e-6)])
def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(stored, tolerance):
    logits = np.random.default_rng(0).normal(0, 4, (50, 20))
    layout = Layout((20,), stored, top=3)
    found = _again(layout, torch.from_numpy(logits).float()).double().numpy()
    for row, kept in zip(logits, found, strict=True):
        order = np.argsort(-row)
        largest, rest = order[:3], order[3:]
        np.testing.assert_allclose(kept[largest], row[largest], rtol=tolerance, atol=tolerance)
        assert np.ptp(kept[rest]) == 0
        mass = np.log(np.exp(row[rest]).sum())
        np.testing.assert_allclose(np.log(np.exp(kept[rest]).sum()), mass, rtol=tolerance, atol=tolerance)
    # At T = 1 the kept classes have the probabilities that they had; the others share theirs evenly.
    exact, approximate = (np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in (logits, found))
    places = np.argsort(-logits, axis=1)[:, :3]
    np.testing.assert_allclose(
        np.take_along_axis(approximate, places, 1), np.take_along_axis(exact, places, 1), rtol=3 * tolerance
    )


def test_kd_to_top_k_is_kd_to_those_probabilities():
    """The loss of the `kd` term at T, where numpy spreads the mass of the rest over it."""
    rng = np.random.default_rng(1)
    teacher, student, temperature = rng.normal(0, 3, (6, 12)), rng.normal(0, 3, (6, 12)), 4.0
    kept = _again(Layout((12,), "fp32", top=4), torch.from_numpy(teacher).float())
    rows = []
    for theirs, mine in zip(teacher, student, strict=True):
        order = np.argsort(-theirs)
        spread = theirs.copy()
        spread[order[4:]] = np.log(np.exp(theirs[order[4:]]).mean())
        logs = [one / temperature - np.log(np.exp(one / temperature).sum()) for one in (spread, mine)]
        rows.append(temperature**2 * (np.exp(logs[0]) * (logs[0] - logs[1])).sum())
    found = functional.kd_kl(torch.from_numpy(student).float(), kept, temperature=temperature, impl="torch")
    np.testing.assert_allclose(found.numpy(), rows, rtol=1e-4)


def test_a_part_that_is_no_number_is_refused(teacher, tmp_path):
    keeping = Keeping(
        tmp_path, rows=4, copies=1, views=SampleViews(0), stored="fp16", top=None, takes_any_shape=True, processes=1,
        note=print,
    )  # fmt: skip
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    recall = Recall(TracedNet(net, penultimate="0"), keeping)
    batch = Batch(torch.zeros(2, 4), torch.zeros(2), torch.arange(2), torch.ones(2, dtype=torch.bool))
    assert recall(batch, Step(0, 1, 0)).logits.shape == (2, 3)
    recall = Recall(TracedNet(net.append(Rounded()), penultimate="0"), keeping)
    with pytest.raises(ConfigError, match="logits of the teacher is torch.int64, which is not kept"):
        recall(batch, Step(0, 1, 0))


class Rounded(torch.nn.Module):
    def forward(self, inputs):
        return inputs.long()


def test_rows_are_as_long_as_is_said():
    assert Layout((100,), "fp16").row_bytes == 200 and Layout((64, 8, 8), "fp32").row_bytes == 16384
    assert Layout((100,), "fp16", top=8).row_bytes == 8 * (2 + 4) + 2
