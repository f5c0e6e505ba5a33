"""Triton kernels of the losses on feature maps, in Triton's interpreter, against torch in float64; and the operators.

The interpreter sees no races, no TF32 and no spills; those are looked for where kernels are compiled. It takes
milliseconds for each operation, so sizes are small.
"""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SAMPLE = [K.hint_mse, K.hint_l2, K.pkd, K.attention_transfer]
POOLED = {"levels": (2, 1)}


def _randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def _error(actual, expected):
    scale = expected.abs().max().clamp(min=1e-12)
    return ((actual.double() - expected).abs().max() / scale).item()


def _agrees(function, students, others, tolerance=None, **options):
    """Compare values and gradients at uneven upstream gradients with those of torch in float64."""
    upstream = torch.linspace(-1, 2, len(students[0]), device=DEVICE, dtype=torch.float64)
    found = [each.detach().requires_grad_() for each in students]
    wanted = [each.detach().double().requires_grad_() for each in students]
    values = function(*found, *others, impl="triton", **options)
    assert values.dtype == torch.float32 and values.shape == students[0].shape[:1]
    reference = function(*wanted, *(each.double() for each in others), impl="torch", **options)
    values.backward(upstream.float())
    reference.backward(upstream)
    assert _error(values, reference) <= (tolerance or 2e-6)
    for mine, exact in zip(found, wanted, strict=True):
        assert mine.grad.dtype == mine.dtype and mine.grad.shape == mine.shape
        assert _error(mine.grad, exact.grad) <= (tolerance or TOLERANCE[mine.dtype])


def _vid(mean, raw, teacher, *, impl):
    return K.vid(mean, teacher, raw, impl=impl)


def _projected(student, weight, teacher, *, impl):
    return K.projected_mse(student, teacher, weight, impl=impl)


def _projected_with_bias(student, weight, bias, teacher, *, impl):
    return K.projected_mse(student, teacher, weight, bias=bias, impl=impl)


def _grouped(first, second, teacher_first, teacher_second, *, impl):
    return K.hint_mse_grouped((first, second), (teacher_first, teacher_second), weights=(0.3, 2.0), impl=impl)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: torch.cat([x, x], dim=3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch_inside": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", SAMPLE)
def test_triton_equals_torch_in_every_layout(loss, layout):
    s, t = LAYOUTS[layout](_randn(2, 5, 3, 4)), _randn(2, 5, 3, 4, seed=1)
    _agrees(loss, [s], [t if layout == "transposed" else LAYOUTS[layout](t)])


@pytest.mark.parametrize("shape", [(1, 3, 7, 5), (1, 70, 3, 3), (1, 3, 10, 13)])
@pytest.mark.parametrize("loss", SAMPLE)
def test_triton_equals_torch_at_odd_sizes(loss, shape):
    _agrees(loss, [_randn(*shape)], [_randn(*shape, seed=1)])
    last = LAYOUTS["channels_last"]
    _agrees(loss, [last(_randn(*shape))], [_randn(*shape, seed=1)])


@pytest.mark.parametrize(
    "student, teacher", [(torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.bfloat16, torch.float32)]
)
@pytest.mark.parametrize("loss", SAMPLE)
def test_triton_accumulates_half_precision_in_float32(loss, student, teacher):
    _agrees(loss, [_randn(1, 5, 3, 3, dtype=student)], [_randn(1, 5, 3, 3, seed=1, dtype=teacher)])


@pytest.mark.parametrize("loss", [K.hint_mse, K.hint_l2, K.pkd])
def test_triton_takes_vectors_and_expanded_teachers(loss):
    _agrees(loss, [_randn(3, 37)], [_randn(3, 37, seed=1)])
    _agrees(loss, [_randn(3, 6, 5)], [_randn(1, 6, 5, seed=1).expand(3, 6, 5)])


def test_pkd_in_triton_joins_the_moments_of_several_tiles_beside_a_large_offset():
    s, t = _randn(2, 1, 50, 43), _randn(2, 1, 50, 43, seed=1)
    trend = torch.linspace(-3, 3, 50, device=DEVICE).view(50, 1)  # so that the means of tiles differ
    s[1] += 3
    _agrees(K.pkd, [s + trend], [t + trend], tolerance=1e-5)
    _agrees(K.pkd, [s + 100], [t - 50], tolerance=1e-4)


def test_pkd_in_triton_takes_more_samples_than_a_block():
    s, t = (LAYOUTS["channels_last"](_randn(34, 2, 3, 6, seed=seed)) for seed in range(2))
    t[7] -= 2
    _agrees(K.pkd, [s + 9], [t], tolerance=1e-5)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0])
def test_attention_transfer_in_triton_takes_any_power_and_width(p):
    s, t = _randn(2, 300, 3, 3), _randn(2, 4, 5, 5, seed=1)  # more channels than a tile
    s[0, 0, 0, 0] = 0
    _agrees(K.attention_transfer, [s], [t], p=p, tolerance=1e-5)


def test_attention_transfer_in_triton_takes_maps_of_more_positions_than_a_block():
    _agrees(K.attention_transfer, [_randn(1, 1, 65, 64)], [_randn(1, 2, 65, 64, seed=1)])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_vid_in_triton_equals_torch(layout):
    s, t = LAYOUTS[layout](_randn(3, 35, 3, 4)), _randn(3, 35, 3, 4, seed=1)
    raw = _randn(35, seed=2) * 10
    _agrees(_vid, [s, raw], [t])
    _agrees(_vid, [s.bfloat16(), raw[::1]], [t.bfloat16()])
    _agrees(_vid, [_randn(33, 2, 1, 1), _randn(4, seed=2)[::2]], [_randn(33, 2, 1, 1, seed=1)])


@pytest.mark.parametrize(
    "shape, levels",
    [
        ((1, 3, 5, 7), (4, 2, 1)), ((2, 9, 4, 3), (2,)), ((1, 2, 12, 13), (3,)), ((2, 2, 3, 3), ()),
        ((1, 1, 2, 2), (1,)), ((2, 1, 1, 1), (4, 2, 1)), ((2, 34, 8, 8), (4, 2, 1)), ((1, 2, 28, 21), (4, 2, 1)),
        ((1, 17, 9, 9), ()), ((1, 2, 9, 10), (8, 4, 2, 1)), ((1, 1, 25, 23), (6, 1)),
    ],
)  # fmt: skip
def test_pooled_mse_in_triton_equals_torch(shape, levels):
    s, t = _randn(*shape), _randn(*shape, seed=1)
    _agrees(K.pooled_mse, [s], [t], levels=levels)


def test_pooled_mse_in_triton_takes_other_layouts_and_half_precision():
    s, t = _randn(1, 3, 5, 4), _randn(1, 3, 5, 4, seed=1)
    _agrees(K.pooled_mse, [LAYOUTS["channels_last"](s)], [t], **POOLED)
    _agrees(K.pooled_mse, [LAYOUTS["sliced"](s).bfloat16()], [t], **POOLED)
    _agrees(K.pooled_mse, [LAYOUTS["transposed"](s)], [LAYOUTS["channels_last"](t)], **POOLED)
    s, t = _randn(1, 35, 9, 9, dtype=torch.float16), _randn(1, 35, 9, 9, seed=1)
    _agrees(K.pooled_mse, [LAYOUTS["channels_last"](s)], [LAYOUTS["channels_last"](t)])


def test_pooled_mse_in_triton_keeps_the_digits_of_float32_beside_a_large_mean():
    s, t = _randn(2, 3, 12, 12), _randn(2, 3, 12, 12, seed=1)
    _agrees(K.pooled_mse, [s + 1000], [t], tolerance=2e-6)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_projected_mse_in_triton_equals_torch(layout):
    s, t = LAYOUTS[layout](_randn(2, 35, 3, 4)), LAYOUTS[layout](_randn(2, 70, 3, 4, seed=1))
    weight, bias = _randn(70, 35, seed=2), _randn(70, seed=3)
    _agrees(_projected, [s, weight], [t])
    _agrees(_projected_with_bias, [s, weight, bias], [t])
    _agrees(
        _projected,
        [_randn(1, 3, 9, 8), _randn(3, 2, seed=2).T.contiguous().T[:, :1].expand(3, 3)],
        [_randn(1, 3, 9, 8)],
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_projected_mse_in_triton_multiplies_in_the_students_dtype(dtype):
    s, t, weight = _randn(2, 5, 3, 3, dtype=dtype), _randn(2, 7, 3, 3, seed=1), _randn(7, 5, seed=2).to(dtype).float()
    _agrees(_projected, [s, weight], [t], tolerance=1e-2)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 1, 70, 1, 5), (2, 70, 1, 9, 9), (1, 33, 66, 3, 22)])
def test_projected_mse_in_triton_takes_odd_sizes(shape):
    batch, inputs, outputs, *sides = shape
    s, t = _randn(batch, inputs, *sides), _randn(batch, outputs, *sides, seed=1)
    weight, bias = _randn(outputs, inputs, seed=2), _randn(outputs, seed=3)
    _agrees(_projected_with_bias, [s, weight, bias], [t])
    last = LAYOUTS["channels_last"]
    _agrees(_projected, [last(s), weight], [last(t)])


def test_projected_mse_in_triton_leaves_gradients_of_many_weights_to_torch(monkeypatch):
    from edgekd_kernels._triton import projection

    s, t, weight, bias = _randn(2, 5, 3, 3), _randn(2, 7, 3, 3, seed=1), _randn(7, 5, seed=2), _randn(7, seed=3)
    monkeypatch.setattr(projection, "LARGEST", 34)
    monkeypatch.setattr(projection, "_by_student_kernel", None)
    _agrees(_projected_with_bias, [s, weight, bias], [t])


def test_hint_mse_grouped_equals_the_sum_of_its_stages():
    shapes = [(3, 4, 5, 5), (3, 9), (3, 7, 2, 1), (3, 2100)]
    students = [_randn(*shape, seed=index) for index, shape in enumerate(shapes)]
    teachers = [_randn(*shape, seed=9 + index) for index, shape in enumerate(shapes)]
    students[0] = students[0].contiguous(memory_format=torch.channels_last)
    expected = sum(w * K.hint_mse(s, t) for w, s, t in zip((1, 2, 3, 0.5), students, teachers, strict=True))
    for impl in ("torch", "triton"):
        actual = K.hint_mse_grouped(students, teachers, weights=(1, 2, 3, 0.5), impl=impl)
        torch.testing.assert_close(actual, expected)
        many = K.hint_mse_grouped(students[:2] * 5, teachers[:2] * 5, impl=impl)
        torch.testing.assert_close(
            many, 5 * (K.hint_mse(*[x[0] for x in (students, teachers)]) + K.hint_mse(students[1], teachers[1]))
        )
    _agrees(_grouped, [students[0], students[1].bfloat16()], [teachers[0], teachers[1]])


def test_hint_mse_grouped_refuses_stages_that_do_not_go_together():
    a, b = torch.zeros(2, 3), torch.zeros(3, 3)
    with pytest.raises(ValueError, match="0 of the student's"):
        K.hint_mse_grouped([], [])
    with pytest.raises(ValueError, match="2 of the student's, 1 of the teacher's, 2 weights"):
        K.hint_mse_grouped([a, a], [a])
    with pytest.raises(ValueError, match="1 of the teacher's, 3 weights"):
        K.hint_mse_grouped([a], [a], weights=[1, 2, 3])
    with pytest.raises(ValueError, match=r"student_maps\[0\] \(2, 3\).*student_maps\[1\] \(3, 3\)"):
        K.hint_mse_grouped([a, b], [a, b])
    with pytest.raises(ValueError, match=r"student_maps\[1\] \(3, 3\), teacher_maps\[1\] \(2, 3\)"):
        K.hint_mse_grouped([a, b], [a, a])


def test_projected_mse_equals_the_formula():
    rng = np.random.default_rng(5)
    s, t, w, b = (rng.normal(size=shape) for shape in ((2, 3, 2, 2), (2, 4, 2, 2), (4, 3), (4,)))
    expected = [
        np.mean([(w @ s[i, :, y, x] + b - t[i, :, y, x]) ** 2 for y in range(2) for x in range(2)]) for i in range(2)
    ]
    tensors = [torch.tensor(each) for each in (s, t, w)]
    actual = K.projected_mse(*tensors, bias=torch.tensor(b))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    unbiased = K.projected_mse(*tensors, bias=torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(K.projected_mse(*tensors), unbiased)


@pytest.mark.parametrize("shape", [(3, 2, 3, 2), (3, 2)])
def test_gradients_of_projected_mse_and_grouped_hints_are_those_of_the_value_at_uneven_upstream(shape):
    s, t, w, b = (_randn(*each, seed=sum(each)).double() for each in (shape, (3, 4, *shape[2:]), (4, 2), (4,)))
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, device=DEVICE)
    inputs = [each.requires_grad_() for each in (s, w, b)]
    assert torch.autograd.gradcheck(lambda s, w, b: K.projected_mse(s, t, w, bias=b) * upstream, inputs)
    other = _randn(3, 5).double().requires_grad_()
    maps = t.detach()[:, :2], _randn(3, 5, seed=1).double()
    assert torch.autograd.gradcheck(lambda *x: K.hint_mse_grouped(x, maps, weights=(2.0, 0.3)) * upstream, (s, other))


@pytest.mark.parametrize("loss", [*SAMPLE, K.mgd, K.pooled_mse])
def test_gradients_are_those_of_the_value_at_uneven_upstream(loss):
    s, t = (_randn(3, 2, 3, 4, seed=seed).double() for seed in range(2))
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, device=DEVICE)
    assert torch.autograd.gradcheck(lambda s: loss(s, t) * upstream, s.requires_grad_())
    last = LAYOUTS["channels_last"](s.detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, t) * upstream, last)


def test_gradients_of_vid_are_those_of_the_value_at_uneven_upstream():
    s, t, raw = (_randn(*shape, seed=3).double() for shape in ((3, 2, 2, 2), (3, 2, 2, 2), (2,)))
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, device=DEVICE)
    inputs = s.requires_grad_(), raw.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, raw: K.vid(s, 2 * t, raw) * upstream, inputs)


IMPLS = ["torch", "triton"]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("loss", SAMPLE)
@pytest.mark.parametrize("at", ["student", "teacher"])
def test_nan_gives_nan_even_among_zeros(loss, at, impl):
    s, t = torch.zeros(2, 3, 2, 2, device=DEVICE), torch.zeros(2, 3, 2, 2, device=DEVICE)
    (s if at == "student" else t)[1, 1, 1, 1] = float("nan")
    values = loss(s, t, impl=impl)
    assert torch.isnan(values[1])
    assert loss is K.pkd or torch.isfinite(values[0])


@pytest.mark.parametrize("impl", IMPLS)
def test_zero_and_constant_inputs_get_no_gradient(impl):
    t = _randn(2, 3, 2, 2, seed=1)
    for loss, s, value in (
        (K.hint_l2, torch.full_like(t, 1e-7), 1 / 3),
        (K.attention_transfer, torch.full_like(t, 1e-7), 1 / 4),
        (K.pkd, torch.full_like(t, 12345.678), 0.5),
    ):
        s.requires_grad_()
        values = loss(s, t, impl=impl)
        values.sum().backward()
        assert values.mean().item() == pytest.approx(value, rel=1e-5)
        assert s.grad.abs().max() == 0


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("scale", [1e25, 1e12, 1e-5])
def test_what_ignores_length_survives_lengths_whose_powers_are_not_representable(impl, scale):
    s, t = _randn(2, 3, 2, 2), _randn(2, 3, 2, 2, seed=1)
    for loss in (K.hint_l2, K.attention_transfer):
        one, other = s.clone().requires_grad_(), (scale * s).requires_grad_()
        expected, actual = loss(one, t, impl=impl), loss(other, t, impl=impl)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)
        expected.sum().backward()
        actual.sum().backward()
        torch.testing.assert_close(other.grad.double() * scale, one.grad.double(), rtol=1e-3, atol=1e-6)


def test_values_are_never_negative_where_student_and_teacher_agree():
    t = _randn(3, 5, 3, 3)
    for loss, impl in ((loss, impl) for loss in (K.hint_l2, K.pkd) for impl in IMPLS):
        assert 0 <= loss(t.clone(), t, impl=impl).min() <= loss(t.clone(), t, impl=impl).max() < 1e-6


def test_attention_transfer_keeps_no_teacher_for_backward():
    s, t = _randn(2, 3, 4, 4).requires_grad_(), _randn(2, 50, 4, 4, seed=1)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each.numel()) or each, lambda each: each):
        K.attention_transfer(s, t)
    assert sum(saved) < s.numel() + 2 * t[:, :1].numel()


ARGUMENTS = {
    "hint_mse": lambda: (_randn(2, 3, 3, 3).requires_grad_(), _randn(2, 3, 3, 3, seed=1)),
    "hint_l2": lambda: (_randn(2, 3, 3, 3).requires_grad_(), _randn(2, 3, 3, 3, seed=1)),
    "pkd": lambda: (_randn(2, 3, 3, 3).requires_grad_(), _randn(2, 3, 3, 3, seed=1)),
    "attention_transfer": lambda: (_randn(2, 3, 3, 3).requires_grad_(), _randn(2, 4, 3, 3, seed=1)),
    "vid": lambda: (_randn(2, 3, 2, 2).requires_grad_(), _randn(2, 3, 2, 2, seed=1), _randn(3).requires_grad_()),
    "pooled_mse": lambda: (_randn(1, 2, 3, 3).requires_grad_(), _randn(1, 2, 3, 3, seed=1)),
    "projected_mse": lambda: (
        _randn(2, 3, 2, 2).requires_grad_(),
        _randn(2, 4, 2, 2, seed=1),
        _randn(4, 3).requires_grad_(),
    ),
}
OPTIONS = {"attention_transfer": [2.0], "vid": [1e-5], "pooled_mse": [[2, 1]], "hint_mse": [[1.0]]}
OVERLOADS = {"hint_mse": "hint_mse_of_1", "projected_mse": "projected_mse_weight"}


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_operators_are_registered_properly(name, impl):
    arguments = ARGUMENTS[name]()
    if name not in ("pooled_mse", "projected_mse"):
        arguments = [each.detach().flatten(2).requires_grad_(each.requires_grad) for each in arguments[:2]] + list(
            arguments[2:]
        )
    if name == "projected_mse":
        arguments = [each.detach().flatten(2).requires_grad_(each.requires_grad) for each in arguments[:2]] + [
            arguments[2]
        ]
    operator = getattr(torch.ops.edgekd_kernels, OVERLOADS.get(name, name)).default
    torch.library.opcheck(operator, (*arguments, *OPTIONS.get(name, []), impl))


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_losses_compile_without_a_break(name, impl):
    loss = getattr(K, name)
    options = POOLED if name == "pooled_mse" else {}
    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        arguments = ARGUMENTS[name]()
        values = function(*arguments, impl=impl, **options)
        values.sum().backward()
        results.append((values.detach(), *(each.grad for each in arguments if each.requires_grad)))
    for mine, compiled in zip(*results, strict=True):
        torch.testing.assert_close(mine, compiled)


@pytest.mark.parametrize("impl", ["auto", "triton"])
def test_grouped_hints_compile_without_a_break(impl):
    maps = [_randn(2, 3, 3, 3), _randn(2, 5)]
    compiled = torch.compile(K.hint_mse_grouped, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(maps, [*maps[:1], maps[1] * 2], impl=impl), K.hint_mse(maps[1], maps[1] * 2))


@pytest.mark.parametrize("loss", [K.hint_mse, K.hint_l2, K.pkd, K.attention_transfer, K.pooled_mse, K.mgd])
def test_bad_input_is_refused(loss):
    a = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TypeError, match="int64, expected floating point"):
        loss(a.long(), a)
    with pytest.raises(ValueError, match=r"expected \[B, ...\] with B >= 1"):
        loss(a[:0], a[:0])
    with pytest.raises(ValueError, match=r"\(2, 3, 0, 4\), nothing to compare"):
        loss(a[:, :, :0], a[:, :, :0])
    with pytest.raises(ValueError, match="devices differ: .* on cpu, .* on meta"):
        loss(a, a.to("meta"))
    with pytest.raises(ValueError, match="impl must be one of"):
        loss(a, a, impl="fast")
    with pytest.raises(RuntimeError, match=r"float64 is not among"):
        loss(a.double(), a.double(), impl="triton")


def test_bad_parameters_are_refused():
    a = torch.zeros(2, 3, 4, 4)
    for parameter in ("weight", "bias"):
        good = {"weight": torch.zeros(5, 3), "bias": torch.zeros(5)}
        teacher = torch.zeros(2, 5, 4, 4)
        for bad, error, message in (
            (good[parameter][:-1], ValueError, f"{parameter} has shape"),
            (good[parameter].long(), TypeError, f"{parameter} has dtype torch.int64"),
            (good[parameter].to("meta"), ValueError, f"devices differ.*{parameter} on meta"),
        ):
            with pytest.raises(error, match=message):
                K.projected_mse(a, teacher, **{**good, parameter: bad})
    with pytest.raises(ValueError, match="positions differ"):
        K.projected_mse(a, torch.zeros(2, 5, 4, 3), torch.zeros(5, 3))
    with pytest.raises(TypeError, match="raw_variance has dtype"):
        K.vid(a, a, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="raw_variance has shape"):
        K.vid(a, a, torch.zeros(4))
    with pytest.raises(ValueError, match="raw_variance on meta"):
        K.vid(a, a, torch.zeros(3, device="meta"))
    with pytest.raises(ValueError, match="epsilon must not be negative, got -1"):
        K.vid(a, a, torch.zeros(3), epsilon=-1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_projected_mse_sums_half_precision_in_float32_under_autocast_too(dtype):
    s, t, w = _randn(2, 64, 3, 3, dtype=dtype), 100 * _randn(2, 8, 3, 3, seed=1), _randn(8, 64, seed=2)
    exact = K.projected_mse(s.double(), t.double(), w.to(dtype).double())
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        values = K.projected_mse(s, t, w)
        pooled = K.pooled_mse(s.float(), 2 * s.float())
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, K.pooled_mse(s.float(), 2 * s.float()))
