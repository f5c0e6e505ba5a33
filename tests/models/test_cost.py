import pytest
import torch
from torch import nn

from edgekd.models import count_macs, count_params


def test_params_count_shared_ones_once_and_buffers_not():
    shared = nn.Linear(3, 3)
    module = nn.Sequential(shared, nn.BatchNorm1d(3), shared)
    assert count_params(module) == 9 + 3 + 6


@pytest.mark.parametrize(
    ("layer", "input_shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 32, 32), 8 * 16 * 16 * 27),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 10, 10), 8 * 100 * 9),
        (nn.Conv2d(8, 12, 5, groups=4), (8, 10, 10), 12 * 36 * 2 * 25),
        (nn.Conv2d(4, 6, (1, 3), dilation=2), (4, 9, 9), 6 * 9 * 5 * 12),
        (nn.Conv1d(4, 6, 3), (4, 9), 6 * 7 * 12),
        (nn.Linear(5, 7), (5,), 35),
        (nn.Linear(5, 7), (4, 5), 4 * 35),
        (nn.BatchNorm2d(4), (4, 3, 3), 0),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 25 * 6 * 9),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), 4 * 25 * 3 * 9),
        (nn.LSTM(7, 5, batch_first=True), (9, 7), 9 * 4 * 5 * (7 + 5)),
        (nn.GRU(7, 5, num_layers=2, bidirectional=True, batch_first=True), (9, 7), 9 * 2 * 3 * 5 * (7 + 5 + 10 + 5)),
        (nn.LSTM(7, 5, proj_size=2, batch_first=True), (9, 7), 9 * (4 * 5 * (7 + 2) + 2 * 5)),
    ],
)
def test_macs_of_one_layer_match_the_formula(layer, input_shape, macs):
    assert count_macs(layer, input_shape) == macs


def test_macs_count_a_layer_each_time_it_runs():
    shared = nn.Linear(4, 4)
    assert count_macs(nn.Sequential(shared, nn.ReLU(), shared), (4,)) == 32


def test_counting_leaves_no_trace():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    module[1].eval()
    before = module[1].running_mean.clone()
    state = torch.get_rng_state()
    count_macs(module, (1, 8, 8))
    assert [part.training for part in module.modules()] == [True, True, False]
    assert torch.equal(module[1].running_mean, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part._forward_hooks for part in module.modules())


def test_counting_leaves_no_trace_when_the_network_fails():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(99, 1))
    with pytest.raises(RuntimeError):
        count_macs(module, (1, 8, 8))
    assert module.training
    assert not any(part._forward_hooks for part in module.modules())


def test_counting_works_in_half_and_double_precision():
    for dtype in (torch.float64, torch.bfloat16):
        assert count_macs(nn.Linear(5, 7).to(dtype), (5,)) == 35
