"""The learned temperature and standard scores: closed forms against autograd in float64, and awkward rows."""

import math

import pytest
import textbook_losses
import torch
from edgekd_kernels import functional as K

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMPLS = ["torch", "triton"]
OPTIONS = {"gradient_scale": 1.0, "least": 1.0, "span": 20.0}


@pytest.fixture(autouse=True)
def _kernels():
    pytest.importorskip("triton")


def _pair(*shape, seed=0, scale=1.0, dtype=torch.float32):
    torch.manual_seed(seed)
    return tuple((torch.randn(shape) * scale).to(DEVICE, dtype) for _ in range(2))


def _curriculum(student, teacher, raw, impl, loss=K.curriculum_kl, **options):
    """Return the values and both gradients at an upstream that differs from row to row."""
    student, raw = student.detach().requires_grad_(), torch.tensor(raw, dtype=torch.float32, device=DEVICE)
    raw = raw.to(student.dtype if student.dtype == torch.float64 else torch.float32).requires_grad_()
    values = loss(student, teacher, raw, **OPTIONS | options, **({"impl": impl} if impl else {}))
    upstream = torch.linspace(-1.0, 2.0, len(values), dtype=values.dtype, device=DEVICE) + 0.1
    return values.detach(), *torch.autograd.grad((values * upstream).sum(), (student, raw))


def _textbook(student, teacher, raw, **options):
    loss = textbook_losses.curriculum_kl
    return _curriculum(student.double(), teacher.double(), raw, None, loss=loss, **options)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(1, 2), (5, 9), (600, 3), (3, 300), (2, 4500)])
@pytest.mark.parametrize("span", [1.0, 20.0])
def test_curriculum_kl_and_its_gradients_are_those_of_the_formula(shape, span, impl):
    student, teacher = _pair(*shape, scale=2.0)
    expected = _textbook(student, teacher, 0.4, span=span)
    actual = _curriculum(student, teacher, 0.4, impl, span=span)
    exact = _curriculum(student.double(), teacher.double(), 0.4, "torch", span=span)
    # The parts of the temperature's gradient cancel; in float32 what is left depends on the processor's exp.
    tolerances = (2e-6, 2e-6, 1e-4 if impl == "triton" else 3e-3)
    for mine, wide, wanted, tolerance in zip(actual, exact, expected, tolerances, strict=True):
        torch.testing.assert_close(wide, wanted, rtol=1e-9, atol=1e-12)
        assert (mine.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_the_temperatures_gradient_in_triton_keeps_digits_where_its_parts_cancel():
    student, teacher = _pair(64, 1000)
    for least in (1.0, 15.0):
        *_, expected = _textbook(student, teacher, 0.0, least=least, span=1.0)
        *_, actual = _curriculum(student, teacher, 0.0, "triton", least=least, span=1.0)
        assert abs(actual.item() / expected.item() - 1) < 1e-4 * least


def test_the_temperatures_gradient_in_triton_sees_an_offset_of_rows_no_more_than_the_softmax_does():
    student, teacher = _pair(8, 40)
    student, teacher = student + 256.0, teacher - 512.0
    expected, actual = _textbook(student, teacher, 0.0), _curriculum(student, teacher, 0.0, "triton")
    for mine, wanted in zip(actual, expected, strict=True):
        assert (mine.double() - wanted).abs().max() <= 2e-3 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_curriculum_kl_in_triton_sums_half_precision_in_float32(dtype):
    student, teacher = _pair(6, 50, dtype=dtype)
    expected, actual = _textbook(student, teacher, 0.3), _curriculum(student, teacher, 0.3, "triton")
    assert [each.dtype for each in actual] == [torch.float32, dtype, torch.float32]
    for mine, wanted, tolerance in zip(actual, expected, (2e-6, 1e-2, 1e-4), strict=True):
        assert (mine.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("raw", [-60.0, 60.0])
def test_curriculum_kl_is_finite_at_the_ends_of_its_temperature(raw, impl):
    values, of_student, of_raw = _curriculum(*_pair(3, 5), raw, impl)
    assert all(each.isfinite().all() for each in (values, of_student, of_raw)) and abs(of_raw) < 1e-15


@pytest.mark.parametrize("impl", IMPLS)
def test_equal_logits_have_no_loss_and_no_gradient(impl):
    _, teacher = _pair(4, 70, scale=3.0)
    values, *gradients = _curriculum(teacher.clone(), teacher, 0.2, impl)
    assert values.abs().max() == 0 and all(gradient.abs().max() < 1e-6 for gradient in gradients)
    student = teacher.clone().requires_grad_()
    values = K.standardized_kl(student, teacher, impl=impl)
    values.sum().backward()
    assert values.abs().max() == 0 and student.grad.abs().max() < 1e-7


def test_curriculum_kl_refuses_what_is_no_row_and_other_temperatures():
    rows, raw = torch.zeros(2, 3), torch.zeros(())
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3, 4\), expected \[B, K\]"):
        K.curriculum_kl(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), raw, gradient_scale=1.0)
    with pytest.raises(TypeError, match="raw_temperature has dtype torch.int64"):
        K.curriculum_kl(rows, rows, raw.long(), gradient_scale=1.0)
    with pytest.raises(ValueError, match="raw_temperature is on meta"):
        K.curriculum_kl(rows, rows, raw.to("meta"), gradient_scale=1.0)
    with pytest.raises(ValueError, match=r"expected \[B, K\]"):
        K.standardized_kl(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


def _standard(student, teacher, impl, loss=K.standardized_kl, **options):
    student = student.detach().requires_grad_()
    values = loss(student, teacher, **options, **({"impl": impl} if impl else {}))
    upstream = torch.linspace(-1.0, 2.0, len(values), dtype=values.dtype, device=DEVICE) + 0.1
    return values.detach(), *torch.autograd.grad((values * upstream).sum(), student)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(1, 2), (5, 9), (70, 3), (3, 300), (2, 4500)])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_standardized_kl_and_its_gradient_are_those_of_the_formula(shape, temperature, impl):
    student, teacher = _pair(*shape, scale=3.0)
    wide, options = (student.double(), teacher.double()), {"temperature": temperature}
    expected = _standard(*wide, None, loss=textbook_losses.standardized_kl, **options)
    exact, actual = _standard(*wide, "torch", **options), _standard(student, teacher, impl, **options)
    for mine, wide, wanted in zip(actual, exact, expected, strict=True):
        torch.testing.assert_close(wide, wanted, rtol=1e-9, atol=1e-12)
        assert (mine.double() - wanted).abs().max() <= max(5e-6 * wanted.abs().max(), 1e-7)


def test_standardized_kl_in_triton_survives_offsets_outliers_and_trends_in_rows_longer_than_a_block():
    student, teacher = _pair(4, 9000)
    student[0] += 300.0
    student[1, 17], teacher[1, 8000] = 900.0, -400.0
    student[2] += torch.linspace(0.0, 30.0, 9000, device=DEVICE)
    teacher[3, 4096:] += 25.0
    expected = _standard(student.double(), teacher.double(), "torch")
    actual = _standard(student, teacher, "triton")
    for mine, wanted in zip(actual, expected, strict=True):
        for row, exact in zip(mine, wanted, strict=True):
            assert (row.double() - exact).abs().max() <= 1e-4 * exact.abs().max()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("columns", [7, 5000])
@pytest.mark.parametrize("offset", [0.0, 0.1, -1e4, 1.0 / 3.0])
def test_constant_rows_get_no_gradient_and_leave_the_others_alone(offset, columns, impl):
    student, teacher = _pair(3, columns)
    student[1] = offset
    values, gradient = _standard(student, teacher, impl)
    assert values.isfinite().all() and (values > 0).all() and gradient.isfinite().all()
    assert gradient[1].abs().max() == 0 and gradient[[0, 2]].abs().amax(dim=1).min() > 0
    teacher[0] = offset
    values, gradient = _standard(student, teacher, impl)
    assert values[1] == pytest.approx(_standard(student[1:2], teacher[1:2], impl)[0].item(), rel=1e-5)
    assert values.isfinite().all() and gradient[0].abs().max() > 0


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("columns", [6, 5000])
def test_a_row_with_nan_or_infinity_is_nan_alone(columns, value, impl):
    student, teacher = _pair(4, columns)
    for side in (student, teacher):
        before = side[2, 3].item()
        side[2, 3] = value
        values, gradient = _standard(student, teacher, impl)
        assert values.isnan().tolist() == [False, False, True, False]
        assert gradient[2].isnan().any() and not gradient[[0, 1, 3]].isnan().any()
        values, gradient, _ = _curriculum(student, teacher, 0.0, impl)
        assert not values[[0, 1, 3]].isnan().any() and not gradient[[0, 1, 3]].isnan().any()
        assert values[2].isnan() or value == -math.inf
        side[2, 3] = before


@pytest.mark.parametrize("impl", IMPLS)
def test_standardized_kl_ignores_scale_and_offset_of_either_side(impl):
    student, teacher = _pair(3, 40)
    base, gradient = _standard(student, teacher, impl)
    for scale in (1e-12, 1e12):
        values, other = _standard(scale * student, teacher / scale, impl)
        torch.testing.assert_close(values, base, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other * scale, gradient, rtol=1e-4, atol=1e-6)
