"""Losses on rows: kernels against float64, the torch versions against the textbook left to autograd.

Without a GPU the kernels run in Triton's interpreter, which knows neither races nor TF32 nor registers.
"""

import importlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from edgekd_kernels import curriculum, rowwise, standard
from edgekd_kernels import functional as K
from edgekd_kernels._dispatch import implementation

pytest.importorskip("triton")
tiling_of = importlib.import_module("edgekd_kernels._triton.rows").tiling_of
rowwise_kernels = implementation("triton", "rowwise")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAST = torch.channels_last


def _pair(*shape, seed=0, scale=2.0):
    torch.manual_seed(seed)
    return torch.randn(shape) * scale, torch.randn(shape) * scale


def _labels(logits):
    torch.manual_seed(1)
    return torch.randint(0, logits.shape[1], (len(logits),))


def _raw(logits):
    """Return a raw temperature, which with what `LOSSES` passes makes one of 2."""
    return torch.zeros((), device=logits.device)


LOSSES = {
    "kd_kl": lambda s, t, **o: K.kd_kl(s, t, temperature=2.0, **o),
    "cwd": lambda s, t, **o: K.cwd(s, t, temperature=2.0, **o),
    "branch_kl": lambda s, t, **o: K.branch_kl(s, t, temperature=2.0, **o),
    "standardized_kl": K.standardized_kl,
    "curriculum_kl": lambda s, t, **o: K.curriculum_kl(s, t, _raw(s), gradient_scale=1.0, least=1.5, span=1.0, **o),
    "dkd": lambda s, t, **o: K.dkd(s, t, _labels(s).to(s.device), alpha=1.5, beta=3.0, temperature=2.0, **o),
    "nkd": lambda s, t, **o: K.nkd(s, t, _labels(s).to(s.device), gamma=0.7, temperature=2.0, **o),
    "kd_ce": lambda s, t, **o: K.kd_ce(
        s, t, _labels(s).to(s.device), label_weight=0.4, teacher_weight=1.3, temperature=2.0, **o
    ),
}
LABELLED = ("dkd", "nkd", "kd_ce")
OF_ROWS = (*LABELLED, "standardized_kl", "curriculum_kl")
OF_LOGITS = ("kd_kl", "branch_kl", *OF_ROWS)
BOTH_SIDES = ("branch_kl",)


def _result(name, student, teacher, impl):
    """Return the values and the gradients at an upstream that differs from sample to sample."""
    student, teacher = (tensor.detach().requires_grad_() for tensor in (student, teacher))
    values = LOSSES[name](student, teacher, impl=impl)
    upstream = torch.linspace(-1.0, 2.0, len(values), dtype=values.dtype, device=values.device) + 0.1
    sides = [student, teacher] if name in BOTH_SIDES else [student]
    return [values.detach(), *torch.autograd.grad((values * upstream).sum(), sides)]


def _assert_close(name, student, teacher, tolerance=2e-6, of_gradient=None):
    expected = _result(name, student.double(), teacher.double(), "torch")
    actual = _result(name, student.to(DEVICE), teacher.to(DEVICE), "triton")
    assert actual[0].dtype == torch.float32
    tolerances = [tolerance] + [of_gradient or tolerance] * (len(actual) - 1)
    for mine, wanted, allowed in zip(actual, expected, tolerances, strict=True):
        assert (mine.cpu().double() - wanted).abs().max() <= allowed * wanted.abs().max()


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("shape", [(1, 3), (7, 10), (70, 16), (5, 100), (2, 1025), (2, 4097)])
def test_kernels_equal_float64_on_logits(name, shape):
    _assert_close(name, *_pair(*shape))


@pytest.mark.parametrize("name", OF_LOGITS)
def test_kernels_equal_float64_where_the_largest_logit_is_in_the_last_block(name):
    student, teacher = (tensor + 9.0 * (torch.arange(4100) > 4097) for tensor in _pair(2, 4100))
    _assert_close(name, student, teacher)


def test_tiles_lie_along_what_is_adjacent_in_memory():
    maps = torch.zeros(2, 96, 14, 14)
    in_rows, across = (rowwise_kernels.as_rows(each, True) for each in (maps, maps.to(memory_format=LAST)))
    assert (tiling_of(in_rows).rows, tiling_of(in_rows).block) == (4, 256)
    assert (tiling_of(across).rows, tiling_of(across).block, tiling_of(across).is_blocked) == (64, 64, True)
    assert in_rows.data_ptr() == maps.data_ptr() and across.stride() == (96 * 196, 1, 96)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_labelled_kernels_equal_float64_at_other_temperatures(name, temperature):
    student, teacher = _pair(4, 9)
    loss, labels = getattr(K, name), _labels(student)
    expected = loss(student.double(), teacher.double(), labels, temperature=temperature)
    actual = loss(student.to(DEVICE), teacher.to(DEVICE), labels.to(DEVICE), temperature=temperature, impl="triton")
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["kd_kl", "cwd", "branch_kl"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 5, 3, 7), (2, 70, 5, 5), (3, 2, 9)])
@pytest.mark.parametrize("is_last", [False, True])
def test_kernels_equal_float64_on_maps_in_either_layout(name, shape, is_last):
    student, teacher = _pair(*shape)
    if is_last and student.dim() == 4:
        student, teacher = student.to(memory_format=LAST), teacher.to(memory_format=LAST)
    _assert_close(name, student, teacher)


def test_kernels_loop_over_classes_and_positions_that_do_not_fit_a_tile_sideways():
    _assert_close("kd_kl", *_pair(1, 100, 3, 3))
    student, teacher = (tensor.to(memory_format=LAST) for tensor in _pair(1, 3, 9, 11))
    _assert_close("cwd", student, teacher)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_kernels_take_views_in_any_order(name):
    student, teacher = _pair(12, 8)
    for mine, theirs in (
        (student[::2, ::2], teacher[1::2, 1::2]),
        (student.t(), teacher.t()),
        (student, teacher[:1].expand(12, 8)),
        (student[:, 1:], teacher[:, :-1]),
    ):
        _assert_close(name, mine, theirs)


def test_map_kernels_take_views_in_any_order():
    student, teacher = _pair(2, 6, 4, 6)
    for mine, theirs in (
        (student[:, ::2, :, ::2], teacher[:, ::2, :, ::2]),
        (student.transpose(2, 3), teacher.transpose(2, 3)),
        (student.permute(0, 2, 3, 1), teacher.permute(0, 2, 3, 1)),
        (student, teacher[:, :1].expand(2, 6, 4, 6)),
    ):
        for name in ("kd_kl", "cwd"):
            _assert_close(name, mine, theirs)


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float32")])
def test_kernels_accumulate_half_precision_in_float32(name, dtypes):
    student, teacher = (each.to(getattr(torch, dtype)) for each, dtype in zip(_pair(5, 33), dtypes, strict=True))
    _assert_close(name, student, teacher, 5e-6, 8e-3)
    assert _result(name, student.to(DEVICE), teacher.to(DEVICE), "triton")[1].dtype == student.dtype


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_extreme_logits_stay_finite_and_nan_stays_nan(name, impl):
    student, teacher = (tensor.to(DEVICE) * 3e4 for tensor in _pair(4, 5))
    assert all(torch.isfinite(each).all() for each in _result(name, student, teacher, impl))
    for place in range(5):
        poisoned = student.clone()
        poisoned[2, place] = math.nan
        values, *gradients = _result(name, poisoned, teacher, impl)
        assert values.isnan().tolist() == [False, False, True, False]
        assert gradients[0][2].isnan().any() and not gradients[0][[0, 1, 3]].isnan().any()


def test_kernels_keep_the_difference_of_nearly_equal_logits_with_a_large_offset():
    student, _ = _pair(4, 40)
    teacher = student + torch.randn(4, 40) * 1e-3
    student, teacher = (tensor + 4096.0 for tensor in (student, teacher))
    expected = K.kd_kl(student.double(), teacher.double(), temperature=1.0)
    actual = K.kd_kl(student.to(DEVICE), teacher.to(DEVICE), temperature=1.0, impl="triton").cpu()
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_out_of_range_is_nan_in_kernels(name):
    student, teacher = (tensor.to(DEVICE).requires_grad_() for tensor in _pair(4, 5))
    labels = torch.tensor([0, 5, 4, -1], device=DEVICE)
    values = getattr(K, name)(student, teacher, labels, impl="triton")
    values.sum().backward()
    assert values.isnan().tolist() == [False, True, False, True]
    assert student.grad.isnan().any(1).tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_at_an_uneven_upstream_are_those_of_finite_differences(name):
    student, teacher = (tensor.double().requires_grad_() for tensor in _pair(3, 4, 2))
    if name in OF_ROWS:
        student, teacher = (tensor.detach()[..., 0].requires_grad_() for tensor in (student, teacher))
    upstream = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)
    sides = (student, teacher) if name in BOTH_SIDES else (student,)
    assert torch.autograd.gradcheck(lambda s, t=teacher: LOSSES[name](s, t) * upstream, sides)


@pytest.mark.parametrize("label_weight, teacher_weight, temperature", [(1.0, 0.0, 4.0), (0.3, 0.9, 2.0), (0, 1, 1.0)])
def test_kd_ce_equals_cross_entropy_plus_kd(label_weight, teacher_weight, temperature):
    student, teacher = (tensor.double().numpy() for tensor in _pair(6, 5))
    labels, expected = _labels(torch.tensor(student)), []
    for s, t, y in zip(student, teacher, labels.tolist(), strict=True):
        p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (t, s))
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        entropy = -math.log(math.exp(s[y]) / np.exp(s).sum())
        expected.append(label_weight * entropy + teacher_weight * temperature**2 * divergence)
    options = {"label_weight": label_weight, "teacher_weight": teacher_weight, "temperature": temperature}
    actual = K.kd_ce(torch.tensor(student), torch.tensor(teacher), labels, **options)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10)


OPERATORS = {
    "kd_kl": (rowwise._KD_KL, (2.0, False)),
    "branch_kl": (rowwise._BRANCH_KL, (2.0,)),
    "dkd": (rowwise._DKD, (1.0, 2.0, 3.0)),
    "nkd": (rowwise._NKD, (1.0, 2.0)),
    "kd_ce": (rowwise._KD_CE, (1.0, 2.0, 3.0)),
    "standardized_kl": (standard._STANDARDIZED_KL, (2.0,)),
    "curriculum_kl": (curriculum._CURRICULUM_KL, (-0.5, 1.0, 20.0)),
}


def _beside(name, logits):
    """Return a loss's tensors beside the logits."""
    if name == "curriculum_kl":
        return (_raw(logits).requires_grad_(),)
    return (_labels(logits).to(logits.device),) if name in LABELLED else ()


@pytest.mark.parametrize("impl", ["auto", "torch", "triton"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_keep_the_contract_of_torch_library(name, impl):
    student, teacher = (tensor.to(DEVICE).requires_grad_() for tensor in _pair(3, 5))
    teacher.requires_grad_(name in BOTH_SIDES)
    loss, options = OPERATORS[name]
    torch.library.opcheck(loss.operator, (student, teacher, *_beside(name, student), *options, impl))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_that_run_in_torch_have_the_gradient_of_the_kernels(name):
    student, teacher = (tensor.requires_grad_() for tensor in _pair(3, 5))
    beside = _beside(name, student)
    loss, options = OPERATORS[name]
    upstream = torch.tensor([1.0, -2.0, 0.5])
    through = loss.operator(student, teacher, *beside, *options, "torch")
    through = through[0] if loss.signature.saved else through
    given = dict(zip(loss.signature.options, options, strict=True))
    plain = loss(student, teacher, *beside, impl="torch", **given)
    sides = [student, teacher] if name in BOTH_SIDES else [student]
    sides += [each for each in beside if each.requires_grad]
    for one, other in zip(*(torch.autograd.grad(values, sides, upstream) for values in (through, plain)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("name", ["cwd", *OF_LOGITS])
def test_losses_compile_whole(name, impl):
    torch._dynamo.reset()
    shape = (3, 4, 2, 2) if name == "cwd" else (3, 5)
    student, teacher = (tensor.to(DEVICE) for tensor in _pair(*shape))
    options = {"gradient_scale": -1.0} if name == "curriculum_kl" else {}
    loss = partial(getattr(K, name), impl=impl, **options)
    beside = _beside(name, student)
    compiled = torch.compile(lambda s: loss(s, teacher, *beside).sum(), fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, lambda s: loss(s, teacher, *beside).sum()):
        leaf = student.clone().requires_grad_()
        function(leaf).backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results)


def test_second_derivatives_are_refused_and_a_second_backward_gives_the_same():
    student, teacher = (tensor.requires_grad_() for tensor in _pair(3, 5))
    value = K.kd_kl(student, teacher).sum()
    first, again = (torch.autograd.grad(value, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    (once,) = torch.autograd.grad(value, student, create_graph=True)
    with pytest.raises(RuntimeError, match="kd_kl has first derivatives only"):
        once.sum().backward()


@pytest.mark.parametrize("name", OF_LOGITS)
def test_bad_input_is_refused_by_name(name):
    good = torch.zeros(3, 5)
    for bad, error, words in (
        (torch.zeros(3, 6), ValueError, "shapes differ"),
        (torch.zeros(3, 5, dtype=torch.int64), TypeError, "floating point"),
        (torch.zeros(3, 5, device="meta"), ValueError, "devices differ"),
    ):
        with pytest.raises(error, match=words):
            LOSSES[name](good, bad)
    with pytest.raises(ValueError, match="B >= 1"):
        LOSSES[name](good[:0], good[:0])
    with pytest.raises(RuntimeError, match="no cuda kernel"):
        LOSSES[name](good, good, impl="cuda")


@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_another_type_or_device_are_refused(name):
    logits = torch.zeros(3, 5)
    with pytest.raises(TypeError, match="labels have dtype"):
        getattr(K, name)(logits, logits, torch.zeros(3))
    with pytest.raises(ValueError, match="labels are on"):
        getattr(K, name)(logits, logits, torch.zeros(3, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize("family", ["rowwise", "labelled", "standard", "curriculum"])
def test_variants_name_every_argument_of_their_kernel_once(family):
    for variant in implementation("triton", family).variants():
        names = [*variant.signature, *variant.constants]
        assert sorted(names) == sorted(variant.kernel.arg_names)
