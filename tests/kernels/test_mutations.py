"""The accuracy check sees a deliberate bug in each kernel and each closed form.

A check that is too lenient passes a kernel that is wrong; so here each is made wrong and the check must fail. Triton's
part runs in the interpreter.
"""

import importlib
import importlib.util
import inspect
import sys

import pytest
import textbook_losses
import torch
from edgekd_kernels import functional as K
from edgekd_kernels._op import _autograd_function
from kernel_cases import Case, cases, fused_losses, operators, relative_error, tensors_of, values_and_gradients

from tests.kernels.mutants import MUTATIONS

TOLERANCE = {"torch": 1e-10, "triton": 2e-5}
ON_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU, not in the interpreter")


def _error(loss, impl, size=None, options=None):
    """Return the largest relative error of values and gradients over the small cases."""
    worst, options = 0.0, options or {}
    for case in [Case(loss, size)] if size else cases(loss, "small"):
        arguments = case.arguments(seed=3)
        exact = case.in_float64(arguments)
        batch = len(next(iter(tensors_of(arguments).values())))
        upstream = torch.linspace(-1.0, 2.0, batch, dtype=torch.float64)
        wanted = values_and_gradients(getattr(textbook_losses, loss), exact, upstream, **options)
        given = exact if impl == "torch" else arguments
        found = values_and_gradients(getattr(K, loss), given, upstream, impl=impl, **options)
        errors = [relative_error(found[0], wanted[0])]
        errors += [relative_error(found[1][name], gradient) for name, gradient in wanted[1].items()]
        worst = max([worst, *errors], key=lambda error: float("inf") if error != error else error)
    return worst


def _implementations(loss):
    return [pytest.param(loss, "torch"), pytest.param(loss, "triton", marks=ON_GPU)]


@pytest.mark.parametrize("loss, impl", [pair for loss in fused_losses() for pair in _implementations(loss)])
def test_the_check_passes_what_is_right(loss, impl):
    if impl == "triton":
        pytest.importorskip("triton")
    assert _error(loss, impl) <= TOLERANCE[impl]


def _mutant(mutation, folder):
    real = importlib.import_module(f"edgekd_kernels.{mutation.module}")
    text = inspect.getsource(real)
    assert text.count(mutation.old) == 1, f"{mutation.old!r} occurs {text.count(mutation.old)} times"
    file = folder / "mutant.py"
    file.write_text(text.replace(mutation.old, mutation.new))
    spec = importlib.util.spec_from_file_location(f"mutant_of_{mutation.module}", file)
    mutant = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = mutant
    try:
        spec.loader.exec_module(mutant)
    finally:
        del sys.modules[spec.name]
    return real, mutant


def _install(real, mutant, monkeypatch):
    """Put the mutant's functions in the place of the real ones wherever modules hold them."""
    functions = {name: getattr(value, "fn", value) for name, value in vars(real).items()}
    own = {
        name: vars(real)[name] for name, each in functions.items() if getattr(each, "__module__", "") == real.__name__
    }
    modules = [module for name, module in sys.modules.items() if name.startswith("edgekd_kernels.")]
    for name, value in own.items():
        for module in modules:
            for held_as in [key for key, held in vars(module).items() if held is value]:
                monkeypatch.setattr(module, held_as, getattr(mutant, name))
    for fused in operators():
        monkeypatch.setattr(fused, "functions", {"torch": _autograd_function(fused.signature, "torch")})


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.module}-{mutation.old[:40]}")
def test_the_check_fails_on_a_mutant(mutation, tmp_path, monkeypatch):
    impl = mutation.module[1:].partition(".")[0]
    if impl == "triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("kernels run on the GPU, not in the interpreter")
        import kernel_resources

        kernel_resources.families()  # imports all modules: one imported later would keep the mutant's functions
    _install(*_mutant(mutation, tmp_path), monkeypatch)
    assert not _error(mutation.loss, impl, mutation.size, mutation.options) <= TOLERANCE[impl]


def test_every_kernel_and_every_closed_form_has_a_mutant():
    pytest.importorskip("triton")
    import kernel_resources

    unmutated = []
    for family in kernel_resources.families():
        kernels = {variant.kernel.__name__: variant.kernel for variant in kernel_resources.variants(family)}
        for name, kernel in kernels.items():
            text, module = inspect.getsource(kernel.fn), kernel.fn.__module__.removeprefix("edgekd_kernels.")
            if not any(mutation.module == module and mutation.old in text for mutation in MUTATIONS):
                unmutated.append(name)
    closed_forms = {(each.signature.family, each.signature.name) for each in operators()}
    mutated = {(m.module.removeprefix("_torch."), m.loss) for m in MUTATIONS}
    assert unmutated == [] and closed_forms - mutated == set()
