"""Weights between two networks, and batch normalisation re-estimated by one pass."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.distill.probes import fidelity, interpolated, with_new_statistics
from edgekd.models import build


@pytest.fixture
def random(teacher):
    torch.manual_seed(4)
    return build(teacher[0]).eval()


@pytest.fixture
def batches(dataset, pixels_of):
    return torch.split(pixels_of(dataset.train), 32)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_parameters_lie_between(share, teacher, random):
    between = interpolated(teacher[1], random, share=share)
    others, start = dict(teacher[1].named_parameters()), dict(random.named_parameters())
    for name, value in between.named_parameters():
        expected = share * start[name].detach().numpy() + (1 - share) * others[name].detach().numpy()
        assert value.detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_share_0_reproduces_the_teacher_exactly(teacher, random, batches, dataset):
    # a teacher whose statistics come from the same pass over the same batches
    passed = with_new_statistics(teacher[1], batches)
    again = with_new_statistics(interpolated(passed, random, share=0.0), batches)
    inputs = batches[0]
    with torch.no_grad():
        assert torch.equal(again(inputs), passed(inputs))
    kept = fidelity({"teacher": teacher[1], "student": again}, dataset.test)
    assert kept["agreement"] > 0.95


def test_share_1_is_the_random_network(teacher, random, batches):
    between = with_new_statistics(interpolated(teacher[1], random, share=1.0), batches)
    start = with_new_statistics(random, batches)
    with torch.no_grad():
        assert torch.allclose(between(batches[0]), start(batches[0]), atol=1e-6)


def test_agreement_falls_from_the_teacher_to_the_random_network(teacher, random, batches, dataset):
    found = []
    for share in (0.0, 0.2, 1.0):
        network = with_new_statistics(interpolated(teacher[1], random, share=share), batches)
        found.append(fidelity({"teacher": teacher[1], "student": network}, dataset.test)["agreement"])
    assert found[0] > found[2] + 0.2
    assert found[0] >= found[1] >= found[2]


def test_statistics_are_means_over_the_batches():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    batches = torch.split(torch.from_numpy(np.random.default_rng(0).normal(2, 3, (12, 2, 2, 2)).astype(np.float32)), 4)
    before = network[0].running_mean.clone()
    fresh = with_new_statistics(network, batches)
    means = np.mean([batch.numpy().mean(axis=(0, 2, 3)) for batch in batches], axis=0)
    variances = np.mean(
        [batch.numpy().transpose(1, 0, 2, 3).reshape(2, -1).var(axis=1, ddof=1) for batch in batches], axis=0
    )
    assert fresh[0].running_mean.numpy() == pytest.approx(means, rel=1e-5)
    assert fresh[0].running_var.numpy() == pytest.approx(variances, rel=1e-5)
    assert fresh[0].momentum == network[0].momentum
    assert not any(module.training for module in fresh.modules())
    assert torch.equal(network[0].running_mean, before)


def test_shares_outside_and_other_architectures_are_refused(teacher, random, student):
    with pytest.raises(ConfigError, match="share is 1.5"):
        interpolated(teacher[1], random, share=1.5)
    with pytest.raises(ConfigError, match="one architecture"):
        interpolated(teacher[1], build(student), share=0.5)
