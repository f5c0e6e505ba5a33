"""The formulas of common practice that benchmarks compare with mean the same loss as ours."""

import inspect

import kernel_cases
import peer_losses
import pytest
import torch
from edgekd_kernels import functional as K

PEERS = sorted(name for name, value in vars(peer_losses).items() if inspect.isfunction(value))
LOOSE = {"pkd": 0.05}
"""Deviations by `n - 1` where ours are by `n`."""


@pytest.mark.parametrize("name", PEERS)
def test_peers_mean_the_same_loss(name):
    for case in kernel_cases.cases(name, "small"):
        arguments = case.in_float64(case.arguments(seed=2))
        ours, theirs = getattr(K, name)(**arguments).mean(), getattr(peer_losses, name)(**arguments)
        torch.testing.assert_close(ours, theirs, rtol=LOOSE.get(name, 1e-5), atol=1e-8)
