"""How the kernels on directions and attention scale and tile columns of feature maps."""

import importlib

import pytest
import torch
from edgekd_kernels import functional as K

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("p", [1.0, 2.0, 2.5])
def test_attention_transfer_in_triton_survives_the_largest_and_smallest_numbers_side_by_side(p):
    s, t = _randn(2, 5, 2, 3), _randn(2, 3, 2, 3, seed=1)
    s[0], s[1, 0] = s[0] * (3e38 / s[0].abs().max()), s[1, 0] * 1e-25
    s[1, :, 0, 0] = 0
    values, exact = (
        K.attention_transfer(*each, p=p, impl=impl)
        for each, impl in (((s, t), "triton"), ((s.double(), t.double()), "torch"))
    )
    torch.testing.assert_close(values.double(), exact, rtol=2e-6, atol=0)


def test_programs_that_take_whole_columns_are_many_or_have_large_tiles():
    column_tile_of = importlib.import_module("edgekd_kernels._triton.tiles").column_tile_of
    many, few = torch.empty(64, 64, 1024), torch.empty(64, 256, 64)
    assert column_tile_of(many) == (16, 64) and column_tile_of(few) == (256, 16)
    assert column_tile_of(few.transpose(1, 2).contiguous().transpose(1, 2)) == (256, 16)
    assert column_tile_of(torch.empty(64, 9000, 1)) == (4096, 1)
    assert column_tile_of(torch.empty(2, 5, 9)) == (8, 16)


@pytest.mark.parametrize("loss", [K.hint_l2, K.attention_transfer])
def test_magnitudes_that_grow_from_tile_to_tile_are_scaled_together(loss):
    growth = torch.logspace(-12, 12, 2100, device=DEVICE).view(1, 2100, 1, 1)
    student, teacher = _randn(2, 2100, 1, 3) * growth, _randn(2, 2100, 1, 3, seed=1) * growth.flip(1)
    students = [student.requires_grad_(), student.detach().double().requires_grad_()]
    values, exact = loss(students[0], teacher, impl="triton"), loss(students[1], teacher.double(), impl="torch")
    torch.testing.assert_close(values.double(), exact, rtol=1e-5, atol=1e-9)
    (values * 1e3).sum().backward()
    (exact * 1e3).sum().backward()
    torch.testing.assert_close(
        students[0].grad.double(), students[1].grad, rtol=1e-4, atol=1e-7 * students[1].grad.abs().max()
    )
