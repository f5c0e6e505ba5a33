"""Which implementation a loss takes: the wish, the measured table, what the machine has; and that it says so once."""

import logging
from types import SimpleNamespace

import pytest
import torch
from edgekd_kernels import _dispatch
from edgekd_kernels import functional as K
from edgekd_kernels._dispatch import choose

OFFERED = ("triton", "cuda", "torch")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    _dispatch._chosen.cache_clear()
    _dispatch.announce.cache_clear()
    yield
    _dispatch._chosen.cache_clear()
    _dispatch.announce.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """Return a maker of what stands for tensors on a GPU of capability 9.0, on which everything is installed."""
    monkeypatch.setattr(_dispatch, "_IS_INSTALLED", {"triton": True, "cuda": True})
    monkeypatch.setattr(_dispatch, "_cuda_obstacle", lambda device: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def tensor(elements=100, dtype=torch.float32):
        return SimpleNamespace(
            device=torch.device("cuda", 0), dtype=dtype, numel=lambda: elements, element_size=lambda: dtype.itemsize
        )

    return tensor


def test_the_measured_table_decides_by_bytes(gpu, monkeypatch):
    table = {"sm_90": {"kd_kl": {"float32": [[1000, "torch"], [10_000, "cuda"], [None, "triton"]]}}}
    monkeypatch.setattr(_dispatch, "_MEASURED", table)
    sizes = {100: "torch", 125: "torch", 126: "cuda", 1250: "cuda", 1251: "triton", 10**6: "triton"}
    found = {elements: choose("kd_kl", "auto", [gpu(elements), gpu(elements)], OFFERED).impl for elements in sizes}
    assert found == sizes


def test_what_was_measured_but_cannot_run_is_passed_over(gpu, monkeypatch):
    monkeypatch.setattr(_dispatch, "_MEASURED", {"sm_90": {"kd_kl": {"float32": [[1000, "cuda"], [None, "triton"]]}}})
    monkeypatch.setattr(_dispatch, "_cuda_obstacle", lambda device: "no driver")
    choice = choose("kd_kl", "auto", [gpu()], OFFERED)
    assert choice.impl == "triton" and "fastest measured on sm_90" in choice.why


def test_an_unmeasured_gpu_takes_triton_before_cuda_before_torch(gpu, monkeypatch):
    monkeypatch.setattr(_dispatch, "_MEASURED", {})
    assert choose("kd_kl", "auto", [gpu()], OFFERED).impl == "triton"
    assert choose("kd_kl", "auto", [gpu()], ("cuda", "torch")).impl == "cuda"
    choice = choose("kd_kl", "auto", [gpu()], ("torch",))
    assert choice.impl == "torch" and "not triton, this loss has no triton kernel" in choice.why


def test_double_precision_runs_in_torch(gpu, monkeypatch):
    monkeypatch.setattr(_dispatch, "_MEASURED", {})
    choice = choose("kd_kl", "auto", [gpu(dtype=torch.float64)], OFFERED)
    assert choice.impl == "torch" and "torch.float64 is not among" in choice.why


def test_an_old_gpu_has_no_cuda_kernels(gpu, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(_dispatch, "_IS_INSTALLED", {"triton": True, "cuda": True})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    _dispatch._cuda_obstacle.cache_clear()
    with pytest.raises(RuntimeError, match=r"compute capability 7\.5, 8\.0 is the least"):
        choose("kd_kl", "cuda", [gpu()], OFFERED)
    _dispatch._cuda_obstacle.cache_clear()


@pytest.mark.parametrize("impl", ["triton", "cuda"])
def test_a_wish_that_cannot_be_met_says_why(impl, monkeypatch):
    monkeypatch.setattr(_dispatch, "_IS_INSTALLED", {"triton": True, "cuda": True})
    monkeypatch.setattr(_dispatch, "is_interpreted", lambda: False)
    with pytest.raises(RuntimeError, match=f'kd_kl: impl="{impl}" cannot run, tensors are on cpu'):
        choose("kd_kl", impl, [torch.zeros(2)], OFFERED)
    monkeypatch.setattr(_dispatch, "_IS_INSTALLED", {"triton": False, "cuda": False})
    _dispatch._chosen.cache_clear()
    with pytest.raises(RuntimeError, match="is not installed"):
        choose("kd_kl", impl, [torch.zeros(2)], OFFERED)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="impl must be one of auto, triton, cuda, torch, got 'fast'"):
        K.kd_kl(torch.zeros(2, 3), torch.zeros(2, 3), impl="fast")


def test_the_choice_is_told_once(caplog):
    caplog.set_level(logging.INFO, logger="edgekd_kernels")
    fused = K.hint_mse.__globals__["_HINT_MSE"][1]
    fused._announced.clear()
    for _ in range(2):
        K.hint_mse(torch.zeros(2, 3), torch.zeros(2, 3))
    assert [record.getMessage() for record in caplog.records] == ["hint_mse runs in torch: tensors are on cpu"]


def test_a_kernel_that_is_traced_runs_as_the_operator():
    pytest.importorskip("triton")
    from torch.fx.experimental.proxy_tensor import make_fx

    if torch.cuda.is_available():
        pytest.skip("kernels run on the GPU, not in the interpreter")
    graph = make_fx(lambda s, t: K.kd_kl(s, t, impl="triton"))(torch.rand(2, 3), torch.rand(2, 3))
    assert "edgekd_kernels.kd_kl" in graph.code
