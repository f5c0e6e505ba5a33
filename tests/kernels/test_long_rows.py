"""Rows that several programs share: against float64, and where one part is unlike the others."""

import importlib
import math

import pytest
import torch
from edgekd_kernels import functional as K
from edgekd_kernels import rowwise

pytest.importorskip("triton")
parts = importlib.import_module("edgekd_kernels._triton.parts")
rows = importlib.import_module("edgekd_kernels._triton.rows")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOSSES = ("kd_kl", "branch_kl", "dkd", "nkd", "kd_ce")
LABELLED = LOSSES[2:]
BOTH_SIDES = ("branch_kl",)
PART = rows.part_of(rows.tiling_of(torch.zeros(1, 1, 5000))).block


def _pair(*shape, scale=2.0):
    torch.manual_seed(0)
    return torch.randn(shape) * scale, torch.randn(shape) * scale


def _results(name, student, teacher, labels, impl, **options):
    """Return the values and the gradients at an upstream that differs from sample to sample."""
    student, teacher = (tensor.detach().requires_grad_() for tensor in (student, teacher))
    beside = (labels.to(student.device),) if name in LABELLED else ()
    values = getattr(K, name)(student, teacher, *beside, impl=impl, temperature=2.0, **options)
    upstream = torch.linspace(-1.0, 2.0, len(values), dtype=values.dtype, device=values.device) + 0.1
    sides = [student, teacher] if name in BOTH_SIDES else [student]
    return [values.detach(), *torch.autograd.grad((values * upstream).sum(), sides)]


def _assert_close(name, student, teacher, labels=None, tolerance=2e-6):
    labels = torch.arange(len(student)) if labels is None else labels
    expected = _results(name, student.double(), teacher.double(), labels, "torch")
    actual = _results(name, student.to(DEVICE), teacher.to(DEVICE), labels, "triton")
    for mine, wanted in zip(actual, expected, strict=True):
        assert (mine.cpu().double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_a_part_is_smaller_than_a_tile_of_whole_rows_and_sideways_the_same():
    long = torch.zeros(1, 2, 9000)
    tiling = rows.part_of(rows.tiling_of(long))
    assert tiling.is_blocked and tiling.parts(9000) == 5 and tiling.parts(0) == 1
    assert rows.part_of(rows.tiling_of(long[:, :, :4096])).parts(4096) == 1
    sideways = rows.tiling_of(torch.zeros(1, 9000, 70).transpose(1, 2))
    assert rows.part_of(sideways) == sideways and sideways.parts(9000) == 141


@pytest.mark.parametrize("parts_of_a_row, count, at_once", [(5, 3, 16), (17, 3, 64), (75, 64, 256), (256, 2048, 64)])
def test_fewer_parts_are_joined_at_once_where_rows_are_many(parts_of_a_row, count, at_once):
    joining = parts.joining_of(parts_of_a_row, count)
    assert joining.parts == at_once and joining in set(parts.joinings())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2 * PART + 1, 3 * PART, 9000])
def test_rows_in_parts_equal_float64(name, classes):
    _assert_close(name, *_pair(3, classes))


@pytest.mark.parametrize("name", LOSSES)
def test_parts_are_joined_in_several_turns(name, monkeypatch):
    monkeypatch.setattr(parts, "_PARTS", (2,))
    monkeypatch.setattr(parts, "_TILE", 4)
    assert parts.joining_of(5, rows=3) == parts.Joining(2, 2)
    student, teacher = _pair(3, 4 * PART + 7)
    rising = torch.arange(student.shape[1]) / PART
    for mine, theirs in ((student, teacher), (student + rising, teacher - rising), (student - rising, teacher)):
        _assert_close(name, mine, theirs)


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_that_is_all_of_the_last_part_leaves_that_part_empty(name):
    student, teacher = _pair(2, 2 * PART + 1)
    _assert_close(name, student, teacher, torch.tensor([2 * PART, PART]))


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_out_of_range_of_a_long_row_is_nan(name):
    student, teacher = (tensor.to(DEVICE) for tensor in _pair(3, 2 * PART + 1))
    values, gradient = _results(name, student, teacher, torch.tensor([2 * PART + 1, 2 * PART, -1]), "triton")
    assert values.isnan().tolist() == [True, False, True]
    assert gradient.isnan().any(1).tolist() == [True, False, True]


@pytest.mark.parametrize("name", LOSSES)
def test_nan_in_any_part_stays_in_its_row_and_extreme_logits_stay_finite(name):
    student, teacher = (tensor.to(DEVICE) * 3e4 for tensor in _pair(3, 2 * PART + 1))
    labels = torch.tensor([5, 7, PART])
    assert all(torch.isfinite(each).all() for each in _results(name, student, teacher, labels, "triton"))
    for place in (0, PART + 3, 2 * PART):
        poisoned = student.clone()
        poisoned[1, place] = math.nan
        values, gradient, *_ = _results(name, poisoned, teacher, labels, "triton")
        assert values.isnan().tolist() == [False, True, False]
        assert gradient.isnan().any(1).tolist() == [False, True, False]


def test_nearly_equal_long_rows_with_a_large_offset_keep_their_difference():
    student, _ = _pair(3, 2 * PART + 100)
    teacher = student + torch.randn(student.shape) * 1e-3
    student, teacher = (tensor + 4096.0 for tensor in (student, teacher))
    expected = K.kd_kl(student.double(), teacher.double(), temperature=1.0)
    actual = K.kd_kl(student.to(DEVICE), teacher.to(DEVICE), temperature=1.0, impl="triton").cpu()
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", ["cwd", "kd_kl", "branch_kl"])
@pytest.mark.parametrize("is_last", [False, True])
def test_maps_with_long_rows_equal_float64(name, is_last):
    shape = (2, 3, 50, 83) if name == "cwd" else (2, 150, 3, 3)
    student, teacher = _pair(*shape)
    if is_last:
        student, teacher = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    _assert_close(name, student, teacher)


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("is_spatial", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 3, 2), (2, 3, 70), (2, 2 * PART + 1)])
def test_statistics_have_the_shape_that_is_declared(impl, is_spatial, shape):
    if len(shape) == 2 and is_spatial:
        pytest.skip("logits have no positions")
    student, teacher = (tensor.to(DEVICE) for tensor in _pair(*shape))
    student.requires_grad_()
    torch.library.opcheck(rowwise._KD_KL.operator, (student, teacher, 2.0, is_spatial, impl))
