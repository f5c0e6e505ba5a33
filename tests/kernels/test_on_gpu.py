"""Kernels on a GPU: accuracy over the table of shapes, determinism, graphs, streams, torch.compile, addresses.

The reference is the loss in float64. An error is right when it is at most twice that of the textbook formula in
float32, the way one writes the loss without a kernel, on the same inputs. Where it can, each check is rehearsed on a
machine without a GPU: on small tensors, the kernels in Triton's interpreter.
"""

import itertools

import pytest
import textbook_losses
import torch
from edgekd_kernels import functional as K
from kernel_cases import cases, fused_losses, implementations, relative_error, tensors_of, values_and_gradients

HAS_GPU = torch.cuda.is_available()
GPU = (pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no CUDA GPU"))
ON = [
    pytest.param("cuda", marks=GPU),
    pytest.param("cpu", marks=pytest.mark.skipif(HAS_GPU, reason="a rehearsal, not needed beside a GPU")),
]
DTYPES = [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.bfloat16, torch.float32)]
SLACK = 2.0**-18
"""Roundings of float32 where a small loss is the difference of larger sums; by luck one side has fewer of them."""
INTERPRETED_ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-7}
"""The interpreter cuts bfloat16 off where a GPU rounds it."""
KERNELS = [(loss, impl) for loss in fused_losses() for impl in implementations(loss)]


@pytest.fixture(autouse=True)
def _without_tf32():
    """What is called float32 is: by default convolutions are not."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, was in zip(backends, before, strict=True):
        backend.allow_tf32 = was


def _require(impl, device):
    if impl == "cuda":
        pytest.importorskip("cuda")
        if device == "cpu":
            pytest.skip("CUDA kernels have no interpreter")
    else:
        pytest.importorskip("triton")


def _cases(loss, device):
    dtypes = DTYPES if device == "cuda" else DTYPES[:2]
    return [
        case
        for student, teacher in dtypes
        for layout in ("contiguous", "channels_last")
        for case in cases(
            loss,
            "cuda" if device == "cuda" else "small",
            student_dtype=student,
            teacher_dtype=teacher,
            device=device,
            layout=layout,
        )
    ]


def _upstream(arguments):
    first = next(iter(tensors_of(arguments).values()))
    return torch.linspace(-1.0, 2.0, len(first), dtype=torch.float64, device=first.device)


def _eager(loss):
    def in_float32(**arguments):
        return getattr(textbook_losses, loss)(**{name: _wide(value) for name, value in arguments.items()})

    return in_float32


def _wide(value):
    if isinstance(value, list):
        return [_wide(each) for each in value]
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _errors(found, exact):
    named = {"value": relative_error(found[0], exact[0])}
    return named | {name: relative_error(found[1][name], gradient) for name, gradient in exact[1].items()}


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_errors_are_at_most_twice_those_of_the_formula(loss, impl, device):
    _require(impl, device)
    worse = []
    for case in _cases(loss, device):
        arguments = case.arguments(seed=1)
        upstream = _upstream(arguments)
        exact = values_and_gradients(case.function, case.in_float64(arguments), upstream, impl="torch")
        eager = _errors(values_and_gradients(_eager(loss), arguments, upstream), exact)
        found = values_and_gradients(case.function, arguments, upstream, impl=impl)
        assert found[0].dtype == torch.float32
        assert all(gradient.dtype == tensors_of(arguments)[name].dtype for name, gradient in found[1].items())
        own = _errors(found, exact)
        slack = SLACK + (0.0 if device == "cuda" else INTERPRETED_ROUNDING[case.student_dtype])
        worse += [
            (case, name, error, eager[name]) for name, error in own.items() if not error <= 2 * eager[name] + slack
        ]
    assert worse == []


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_two_runs_are_equal_bit_for_bit(loss, impl, device):
    _require(impl, device)
    for case in cases(loss, "cuda" if device == "cuda" else "small", device=device)[:3]:
        arguments = case.arguments()
        one, other = (values_and_gradients(case.function, arguments, impl=impl) for _ in range(2))
        assert torch.equal(one[0], other[0])
        assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_a_second_backward_is_equal_and_inputs_are_left_alone(loss, impl, device):
    _require(impl, device)
    arguments = cases(loss, "small", device=device)[0].arguments()
    tensors = tensors_of(arguments)
    before = {name: value.detach().clone() for name, value in tensors.items()}
    taught = [value for value in tensors.values() if value.requires_grad]
    value = getattr(K, loss)(**arguments, impl=impl).mean()
    first = torch.autograd.grad(value, taught, retain_graph=True)
    second = torch.autograd.grad(value, taught)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert all(torch.equal(tensors[name], value) for name, value in before.items())


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_compiled_without_a_break_it_is_the_same(loss, impl, device):
    _require(impl, device)
    torch._dynamo.reset()
    case = cases(loss, "small", device=device)[-1]
    arguments = case.arguments()

    def step(**given):
        return case.function(**given, impl=impl) * 3

    compiled = torch.compile(step, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
    one, other = (values_and_gradients(function, arguments) for function in (step, compiled))
    torch.testing.assert_close(one[0], other[0])
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name])


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_a_nan_in_the_student_is_a_nan_in_the_loss(loss, impl, device):
    _require(impl, device)
    arguments = cases(loss, "small", device=device)[0].arguments()
    student = next(value for value in tensors_of(arguments).values() if value.requires_grad)
    with torch.no_grad():
        student.view(-1)[1] = float("nan")
    assert getattr(K, loss)(**arguments, impl=impl).isnan().any()


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_scaled_gradients_in_half_precision_do_not_vanish(loss, impl, device):
    _require(impl, device)
    case = cases(loss, "small", device=device, student_dtype=torch.float16, teacher_dtype=torch.float16)[0]
    arguments = case.arguments()
    batch = len(_upstream(arguments))
    small, large = (
        values_and_gradients(case.function, arguments, torch.full((batch,), scale, device=device), impl=impl)[1]
        for scale in (1.0, 64.0)
    )
    for name, gradient in large.items():
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        torch.testing.assert_close(gradient.float() / 64, small[name].float(), rtol=2e-2, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA GPU")
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_captured_in_a_graph_it_replays_on_new_numbers(loss, impl):
    _require(impl, "cuda")
    case = cases(loss, "cuda", device="cuda")[0]
    arguments, later = case.arguments(seed=0), case.arguments(seed=1)
    tensors, later = tensors_of(arguments), tensors_of(later)
    taught = [value for value in tensors.values() if value.requires_grad]

    def step():
        values = case.function(**arguments, impl=impl)
        return values, torch.autograd.grad(values.mean(), taught)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values, gradients = step()
    with torch.no_grad():
        for name, value in tensors.items():
            value.copy_(later[name])
    graph.replay()
    wanted, wanted_gradients = step()
    assert torch.equal(values, wanted)
    assert all(torch.equal(one, other) for one, other in zip(gradients, wanted_gradients, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA GPU")
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_on_a_stream_of_its_own_it_waits_for_its_inputs(loss, impl):
    _require(impl, "cuda")
    case = cases(loss, "cuda", device="cuda")[0]
    arguments = case.arguments()
    wanted = values_and_gradients(case.function, arguments, impl=impl)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        found = values_and_gradients(case.function, arguments, impl=impl)
    stream.synchronize()
    assert torch.equal(found[0], wanted[0])
    assert all(torch.equal(found[1][name], gradient) for name, gradient in wanted[1].items())


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA GPU")
@pytest.mark.parametrize("loss, impl", KERNELS)
def test_it_never_waits_for_the_gpu(loss, impl):
    _require(impl, "cuda")
    case = cases(loss, "cuda", device="cuda")[0]
    arguments = case.arguments()
    values_and_gradients(case.function, arguments, impl=impl)
    torch.cuda.set_sync_debug_mode("error")
    try:
        values_and_gradients(case.function, arguments, impl=impl)
    finally:
        torch.cuda.set_sync_debug_mode("default")


LARGE = {"kd_kl": (70_000, 32_000), "hint_mse": (2_200, 1_000, 32, 32)}


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA GPU")
@pytest.mark.parametrize("loss", sorted(LARGE.keys() & set(fused_losses())))
def test_more_elements_than_32_bits_address(loss):
    shape, function = LARGE[loss], getattr(K, loss)
    free_bytes, _ = torch.cuda.mem_get_info()
    elements = torch.Size(shape).numel()
    if free_bytes < 10 * elements:
        pytest.skip(f"{free_bytes / 2**30:.0f} GiB are free, {10 * elements / 2**30:.0f} are needed")
    assert elements > 2**31
    student, teacher = (torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_() for _ in range(2))
    student.requires_grad_()
    values = function(student, teacher, impl="triton")
    values.sum().backward()
    last = student.detach()[-2:].clone().requires_grad_()
    wanted = function(last, teacher[-2:], impl="triton")
    wanted.sum().backward()
    torch.testing.assert_close(values[-2:], wanted, rtol=1e-6, atol=0.0)  # rows are summed in an order of their number
    assert torch.equal(student.grad[-2:], last.grad)


def test_the_table_holds_every_fused_loss():
    assert all(cases(loss, table) for loss, table in itertools.product(fused_losses(), ("small", "cpu", "cuda")))
