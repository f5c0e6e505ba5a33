"""Contrastive kernels against float64; without a GPU they run in Triton's interpreter."""

import math

import pytest
import torch
from edgekd_kernels import contrastive
from edgekd_kernels import functional as K
from edgekd_kernels._dispatch import implementation

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _randn(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(shape)


def _result(loss, tensors, dtype=None):
    leaves = [tensor.detach().to(DEVICE, dtype or tensor.dtype).requires_grad_() for tensor in tensors]
    values = loss(*leaves)
    upstream = torch.linspace(-1.0, 2.0, values.numel(), dtype=values.dtype, device=DEVICE).view(values.shape) + 0.1
    return [values.detach(), *torch.autograd.grad((values * upstream).sum(), leaves)]


def _assert_close(loss, *tensors, tolerance=2e-6, of_gradient=None):
    expected = _result(lambda *each: loss(*each, impl="torch"), tensors, torch.float64)
    actual = _result(lambda *each: loss(*each, impl="triton"), tensors)
    assert actual[0].dtype == torch.float32
    for place, (mine, wanted) in enumerate(zip(actual, expected, strict=True)):
        allowed = (of_gradient or tolerance) if place else tolerance
        assert (mine.double() - wanted).abs().max() <= allowed * wanted.abs().max()


def _info_nce(student, teacher, **options):
    return K.info_nce(student, teacher, temperature=0.2, **options)


@pytest.mark.parametrize("shape", [(3, 2), (5, 7), (33, 65), (70, 130), (520, 3)])
def test_info_nce_equals_float64(shape):
    _assert_close(_info_nce, _randn(*shape), _randn(*shape, seed=1))


def test_info_nce_takes_views_and_half_precision():
    student, teacher = _randn(12, 12), _randn(12, 12, seed=1)
    _assert_close(_info_nce, student.t(), teacher[:, torch.arange(12)])
    _assert_close(_info_nce, student[::2, ::3], teacher.t()[1::2, ::3])
    for mine, theirs in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float16), (torch.bfloat16, None)):
        _assert_close(_info_nce, student.to(mine), teacher.to(theirs or teacher.dtype), of_gradient=8e-3)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_info_nce_gives_short_rows_no_gradient_and_nan_to_rows_that_hold_it(impl):
    student, teacher = _randn(4, 6).to(DEVICE), _randn(4, 6, seed=1).to(DEVICE)
    student[1], teacher[2] = 0.0, 1e-8
    values, mine, theirs = _result(lambda s, t: K.info_nce(s, t, impl=impl), (student, teacher))
    assert values.isfinite().all() and values[1] == pytest.approx(math.log(4))
    assert mine[1].abs().max() == 0 and theirs[2].abs().max() == 0 and mine[0].abs().max() > 0
    student[3, 2] = math.nan
    assert _info_nce(student, teacher, impl=impl).isnan().tolist() == [False, False, False, True]


def test_info_nce_of_one_sample_teaches_nothing_in_the_kernel():
    values, mine, theirs = _result(lambda s, t: K.info_nce(s, t, impl="triton"), (_randn(1, 4), _randn(1, 4)))
    assert values.abs().max() < 1e-6 and mine.abs().max() < 1e-5 and theirs.abs().max() < 1e-5


@pytest.mark.parametrize("chosen, width", [(1, 3), (40, 70), (1030, 3)])
def test_bank_similarity_equals_float64(chosen, width):
    bank, rows = _randn(9, width, seed=1).to(DEVICE), torch.arange(2 * chosen).view(2, chosen).to(DEVICE) * 7 % 9

    def loss(embedding, **options):
        return K.bank_similarity(embedding, bank, rows, temperature=0.5, **options)

    _assert_close(loss, _randn(2, width))
    if chosen > 1000:
        return
    _assert_close(loss, _randn(2, width).bfloat16(), of_gradient=8e-3)
    bank, rows = bank.t().contiguous().t(), rows.t().contiguous().t()
    _assert_close(loss, _randn(width, 2).t())


def test_a_row_outside_the_bank_is_nan_in_the_kernel_and_an_error_on_the_cpu():
    embedding, bank = _randn(2, 3).to(DEVICE).requires_grad_(), _randn(4, 3).to(DEVICE)
    rows = torch.tensor([[0, 4], [1, 2]], device=DEVICE)
    values = K.bank_similarity(embedding, bank, rows, impl="triton")
    values.sum().backward()
    assert values.isnan().tolist() == [[False, True], [False, False]]
    assert embedding.grad.isnan().any(1).tolist() == [True, False]
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=r"rows must be in 0\.\.3"):
            K.bank_similarity(_randn(1, 3), _randn(4, 3), torch.tensor([[0, wrong]]), impl="torch")


@pytest.mark.parametrize("chosen", [2, 9, 1500])
def test_crd_equals_float64(chosen):
    def loss(similarity, **options):
        return K.crd(similarity, torch.tensor(1.3, device=DEVICE), 20, **options)

    similarity = _randn(3, chosen) * 4
    _assert_close(loss, similarity)
    _assert_close(loss, _randn(chosen, 3).t() * 4)
    _assert_close(loss, similarity.half(), of_gradient=2e-3)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_crd_stays_finite_far_out_and_keeps_nan(impl):
    similarity = torch.tensor([[-500.0, 500.0], [500.0, -500.0], [math.nan, 0.0], [0.0, math.nan]], device=DEVICE)
    values, gradient = _result(lambda s: K.crd(s, torch.tensor(0.0, device=DEVICE), 2, impl=impl), (similarity,))
    assert values.isnan().tolist() == [False, False, True, True]
    assert values[0] > 900 and values[1] == 0 and gradient[:2].isfinite().all()


@pytest.mark.parametrize("name", ["info_nce", "bank_similarity", "crd"])
def test_gradients_at_an_uneven_upstream_are_those_of_finite_differences(name):
    one, other = (_randn(3, 4, seed=seed).double().requires_grad_() for seed in range(2))
    upstream = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)
    if name == "info_nce":
        assert torch.autograd.gradcheck(lambda s, t: K.info_nce(s, t, temperature=0.7) * upstream, (one, other))
    elif name == "crd":
        assert torch.autograd.gradcheck(lambda s: K.crd(s, torch.tensor(0.4).double(), 9) * upstream, one)
    else:
        rows = torch.tensor([[0, 2, 2], [1, 0, 2], [2, 1, 0]])
        loss = lambda e: K.bank_similarity(e, other.detach(), rows) * upstream * upstream[:, None]  # noqa: E731
        assert torch.autograd.gradcheck(loss, one)


def _call(name):
    """Return an operator's loss, its tensors and its options."""
    rows = torch.tensor([[0, 2], [1, 0], [2, 1]], device=DEVICE)
    one, other = (_randn(3, 4, seed=seed).to(DEVICE) for seed in range(2))
    return {
        "info_nce": (contrastive._INFO_NCE, (one.requires_grad_(), other.requires_grad_()), (0.2,)),
        "bank_similarity": (contrastive._BANK_SIMILARITY, (one.requires_grad_(), other, rows), (0.2,)),
        "crd": (contrastive._CRD, (one.requires_grad_(), torch.tensor(0.3, device=DEVICE)), (-0.5,)),
    }[name]


@pytest.mark.parametrize("impl", ["auto", "torch", "triton"])
@pytest.mark.parametrize("name", ["info_nce", "bank_similarity", "crd"])
def test_operators_keep_the_contract_of_torch_library(name, impl):
    loss, tensors, options = _call(name)
    torch.library.opcheck(loss.operator, (*tensors, *options, impl))


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("name", ["info_nce", "bank_similarity", "crd"])
def test_losses_compile_whole(name, impl):
    torch._dynamo.reset()
    loss, (one, *others), options = _call(name)
    given = dict(zip(loss.signature.options, options, strict=True))

    def function(leaf):
        return loss(leaf, *others, impl=impl, **given).square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    (mine,), (expected,) = (torch.autograd.grad(each(one), one) for each in (compiled, function))
    torch.testing.assert_close(mine, expected)


def test_bad_input_is_refused():
    good, rows = torch.zeros(3, 4), torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"expected \[B, D\]"):
        K.info_nce(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5))
    with pytest.raises(TypeError, match="floating point"):
        K.info_nce(good.long(), good)
    with pytest.raises(ValueError, match="devices differ"):
        K.info_nce(good, good.to("meta"))
    with pytest.raises(ValueError, match=r"expected \[B, D\], \[N, D\]"):
        K.bank_similarity(good, good, rows[:, 0])
    with pytest.raises(TypeError, match="rows of torch.int64"):
        K.bank_similarity(good, good, rows.int())
    with pytest.raises(ValueError, match="devices differ"):
        K.bank_similarity(good, good.to("meta"), rows)
    with pytest.raises(ValueError, match="expected a scalar"):
        K.crd(good, torch.zeros(1), 5)
    with pytest.raises(ValueError, match="devices differ"):
        K.crd(good, torch.zeros((), device="meta"), 5)


def test_variants_name_every_argument_of_their_kernel_once():
    for variant in implementation("triton", "contrastive").variants():
        assert sorted([*variant.signature, *variant.constants]) == sorted(variant.kernel.arg_names)
