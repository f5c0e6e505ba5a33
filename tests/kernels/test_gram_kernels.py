"""The Gram losses' kernels in Triton's interpreter against torch in float64; races and TF32 do not show here."""

import numpy as np
import pytest
import torch
from edgekd_kernels import functional as K
from edgekd_kernels._rows import gram_parts

triton = pytest.importorskip("triton")
batch_gram = pytest.importorskip("edgekd_kernels._triton.batch_gram")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOSSES = ["similarity_preserving", "linear_cka", "rkd_distance", "rkd_angle"]


def _features(batch, width, *, seed=0, dtype=torch.float32, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, width, generator=generator) + offset
    return values.to(dtype).to(DEVICE)


def _with_gradient(name, student, teacher, impl):
    student = student.detach().requires_grad_()
    values = getattr(K, name)(student, teacher, impl=impl)
    weights = torch.linspace(-1, 2, len(values), device=values.device)
    (gradient,) = torch.autograd.grad(values, student, weights.to(values.dtype))
    return values, gradient


def _assert_agree(name, student, teacher, *, tolerance=2e-5, gradient_tolerance=None, impl="triton"):
    values, gradient = _with_gradient(name, student, teacher, impl)
    expected, expected_gradient = _with_gradient(name, student.double(), teacher.double(), "torch")
    assert values.dtype == torch.float32 and gradient.dtype == student.dtype
    pairs = [(values, expected, tolerance), (gradient, expected_gradient, gradient_tolerance or tolerance)]
    for actual, wanted, bound in pairs:
        assert actual.shape == wanted.shape
        assert (actual.double() - wanted).abs().max() <= bound * wanted.abs().max() + 1e-12


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch, student, teacher", [(3, 2, 1), (5, 17, 70), (16, 300, 33), (18, 40, 64)])
def test_kernels_have_the_value_and_gradient_of_float64(name, batch, student, teacher):
    _assert_agree(name, _features(batch, student), _features(batch, teacher, seed=1))


@pytest.mark.parametrize("name", ["similarity_preserving", "rkd_angle"])
def test_kernels_cross_the_edge_of_a_tile(name):
    _assert_agree(name, _features(66, 5), _features(66, 3, seed=1))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch", [1, 2])
def test_kernels_are_finite_for_one_and_two_samples(name, batch):
    values, gradient = _with_gradient(name, _features(batch, 6), _features(batch, 4, seed=1), "triton")
    expected, _ = _with_gradient(name, _features(batch, 6), _features(batch, 4, seed=1), "torch")
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-5)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtypes", [(torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.bfloat16, torch.float32)])
def test_kernels_take_half_precision_and_mixtures(name, dtypes):
    student, teacher = _features(6, 40, dtype=dtypes[0]), _features(6, 24, seed=1, dtype=dtypes[1])
    _assert_agree(name, student, teacher, gradient_tolerance=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_kernels_take_any_layout(name):
    maps = _features(5, 4 * 3 * 5).view(5, 4, 3, 5)
    teacher = _features(5, 8, seed=1)
    for layout in (
        maps.to(memory_format=torch.channels_last),
        maps[:, :, :, ::2],
        maps.transpose(0, 1).contiguous().transpose(0, 1),
    ):
        _assert_agree(name, layout, teacher)
    _assert_agree(name, _features(8, 5).T, _features(8, 5, seed=1).T)
    _assert_agree(name, maps[:, :1, :1].expand(5, 4, 3, 5), teacher)


@pytest.mark.parametrize("name", ["linear_cka", "rkd_distance", "rkd_angle"])
def test_kernels_centre_features_far_from_the_origin(name):
    _assert_agree(name, _features(9, 40, offset=100.0), _features(9, 24, seed=1, offset=-50.0), gradient_tolerance=1e-4)


@pytest.mark.parametrize("many", [1, 2**20])
def test_means_are_exact_to_a_rounding(monkeypatch, many):
    monkeypatch.setattr(batch_gram, "MANY_COLUMNS", many)
    rows = _features(3000, 19)
    rows[0] = 1000.0
    means, moments = batch_gram._means(rows)
    torch.testing.assert_close(means.double(), rows.double().mean(dim=0), rtol=2.0**-23, atol=0.0)
    torch.testing.assert_close(moments.sum(), means.square().sum())


@pytest.mark.parametrize("parts", [1, 8, 9, 64, 70, 200])
def test_parts_are_added_up_and_mirrored(parts):
    partials = _features(parts, 40 * 40).view(parts, 40, 40)
    gram, norms = batch_gram.sum_parts(partials, 16)
    whole = partials.double().sum(dim=0)
    tile = torch.arange(40, device=DEVICE) // 16
    torch.testing.assert_close(gram, torch.where(tile[:, None] >= tile, whole, whole.T))
    torch.testing.assert_close(norms, whole.diagonal())


@pytest.mark.parametrize("batch, columns, tile, step", [(64, 65536, 64, 32), (8, 2**22, 16, 64), (1024, 512, 64, 32)])
def test_parts_cover_the_columns_in_whole_steps_and_few_megabytes(batch, columns, tile, step):
    parts, per_part = gram_parts(batch, columns, tile, step)
    assert per_part % step == 0 and (parts - 1) * per_part < columns <= parts * per_part
    assert 4 * parts * batch**2 <= 2**23
    assert gram_parts(batch, 1, tile, step) == (1, step)


@pytest.mark.parametrize("gap", [1e-3, 1e-5])
def test_distances_of_near_duplicates_are_those_of_their_rows(gap):
    student, teacher = _features(7, 70, offset=10.0), _features(7, 24, seed=1)
    student[1] = student[0] + gap * _features(1, 70, seed=2)[0]
    student[5] = student[0] + gap * _features(1, 70, seed=3)[0]
    _assert_agree("rkd_distance", student, teacher, gradient_tolerance=2e-3)
    # A cosine between a near and a far sample keeps an error of 1e-7 |x| / d.
    _assert_agree("rkd_angle", student, teacher, tolerance=2e-7 / gap * 10, gradient_tolerance=1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("constant", [0.1, 1e4])
def test_kernels_give_samples_that_do_not_differ_the_values_of_torch(name, constant):
    student, teacher = torch.full((7, 6), constant, device=DEVICE), _features(7, 4, seed=1)
    values, gradient = _with_gradient(name, student, teacher, "triton")
    expected, _ = _with_gradient(name, student, teacher, "torch")
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-5)
    assert name == "similarity_preserving" or gradient.abs().max() == 0


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_coincident_rows_do_not_pull_at_each_other(name):
    student = _features(3, 5).repeat_interleave(2, dim=0)
    _assert_agree(name, student, _features(6, 4, seed=1))


@pytest.mark.parametrize("name", LOSSES)
def test_kernels_keep_a_dead_sample_and_large_and_small_values_finite(name):
    for scale in (1e-6, 1e4):
        student = _features(5, 8) * scale
        student[2] = 0
        _assert_agree(name, student, _features(5, 4, seed=1) * scale, tolerance=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_nan_reaches_the_loss(name):
    student = _features(5, 8)
    student[3, 2] = float("nan")
    assert torch.isnan(getattr(K, name)(student, _features(5, 4, seed=1), impl="triton").mean())


@pytest.mark.parametrize("name", LOSSES)
def test_backward_twice_gives_the_same_and_changes_nothing(name):
    student, teacher = _features(6, 9).requires_grad_(), _features(6, 9, seed=1)
    values = getattr(K, name)(student, teacher, impl="triton").mean()
    before = student.detach().clone()
    first, second = (torch.autograd.grad(values, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(before, student)


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_operators_that_torch_compile_knows(name, impl):
    student, teacher = _features(5, 8).requires_grad_(), _features(5, 4, seed=1)
    operator = getattr(torch.ops.edgekd_kernels, name)
    torch.library.opcheck(operator, (student, teacher, impl))
    compiled = torch.compile(lambda s, t: getattr(K, name)(s, t, impl=impl).sum(), fullgraph=True, backend="aot_eager")
    loss = compiled(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    (expected,) = torch.autograd.grad(getattr(K, name)(student, teacher, impl=impl).sum(), student)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_refuse_what_they_cannot_compare(name):
    loss, rows = getattr(K, name), torch.ones(3, 2)
    with pytest.raises(TypeError, match=r"student_.*int64"):
        loss(rows.long(), rows)
    with pytest.raises(ValueError, match=r"student_.*\(0, 2\)"):
        loss(rows[:0], rows[:0])
    with pytest.raises(ValueError, match=r"devices differ.*meta"):
        loss(rows, rows.to("meta"))
    with pytest.raises(ValueError, match="impl must be one of"):
        loss(rows, rows, impl="numpy")
    with pytest.raises(RuntimeError, match="float64"):
        loss(rows.double(), rows.double(), impl="triton")


@pytest.mark.parametrize("name", LOSSES)
def test_torch_gradients_are_those_of_finite_differences_under_uneven_weights(name):
    rng = np.random.default_rng(0)
    weights = torch.tensor(rng.normal(size=6))
    teacher = torch.tensor(rng.normal(size=(6, 4)))
    student = torch.tensor(rng.normal(size=(6, 5)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: (getattr(K, name)(x, teacher) * weights).sum(), (student,))
