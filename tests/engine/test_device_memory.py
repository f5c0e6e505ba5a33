import importlib
import re
import types
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import PreconditionError
from edgekd.engine import device_memory


class FakeAllocation:
    def __init__(self, driver, size):
        self.driver, self.bytes = driver, bytearray(size)

    def __int__(self):
        return id(self.bytes)

    def free(self):
        del self.driver.live[int(self)]


def fake_pycuda():
    driver = types.ModuleType("driver")
    driver.live, driver.waits = {}, []

    class Stream:
        handle = 5

        def synchronize(self):
            driver.waits.append(1)

    def allocate(size):
        allocation = FakeAllocation(driver, size)
        driver.live[int(allocation)] = allocation
        return allocation

    def upload(target, array, stream):
        driver.live[target].bytes[: array.nbytes] = array.tobytes()

    def download(array, source, stream):
        array[...] = np.frombuffer(driver.live[source].bytes, array.dtype)[: array.size].reshape(array.shape)

    driver.Stream, driver.mem_alloc, driver.pagelocked_empty = Stream, allocate, np.empty
    driver.memcpy_htod_async, driver.memcpy_dtoh_async = upload, download
    return driver


def test_pycuda_memory_round_trip():
    driver = fake_pycuda()
    memory = device_memory.PycudaMemory(driver)
    sent, got = np.arange(6, dtype=np.float32).reshape(2, 3), memory.host((2, 3), np.float32)
    assert memory.captured(memory.synchronize) is None and driver.waits == []
    address = memory.allocate(sent.nbytes)
    memory.upload(address, sent)
    memory.download(got, address)
    memory.synchronize()
    np.testing.assert_array_equal(got, sent)
    assert (memory.stream, memory.name, driver.waits) == (5, "pycuda", [1])
    memory.release()
    assert driver.live == {}


def test_every_name_that_is_asked_of_cuda_python_is_there():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    names = set(re.findall(r"\bcuda[A-Z]\w+", Path(device_memory.__file__).read_text()))
    enums = {"cudaSuccess", "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaStreamCaptureModeThreadLocal"}
    assert len(names - enums) > 10 and enums <= names
    assert [name for name in sorted(names - enums) if not hasattr(runtime, name)] == []
    members = {*runtime.cudaError_t.__members__, *runtime.cudaMemcpyKind.__members__}
    assert enums <= members | {*runtime.cudaStreamCaptureMode.__members__}


@pytest.mark.gpu
def test_a_graph_of_copies_is_replayed_on_a_gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    torch.cuda.init()
    memory = device_memory.CudaPythonMemory(runtime)
    sent, got = memory.host((64,), np.float32), memory.host((64,), np.float32)
    address = memory.allocate(sent.nbytes)

    def work():
        memory.upload(address, sent)
        memory.download(got, address)

    replay = memory.captured(work)
    for value in (1.0, 2.0):
        sent[:] = value
        got[:] = 0
        replay()
        memory.synchronize()
        np.testing.assert_array_equal(got, sent)
    memory.release()


def importer(modules):
    def load(name):
        if name not in modules:
            raise ImportError(f"No module named {name!r}")
        return modules[name]

    return load


def test_open_takes_what_is_installed(monkeypatch):
    driver = fake_pycuda()
    modules = {"pycuda.driver": driver, "pycuda.autoprimaryctx": types.ModuleType("context")}
    monkeypatch.setattr(importlib, "import_module", importer(modules))
    assert device_memory.device_memory_reason() is None
    assert device_memory.open_device_memory().name == "pycuda"
    monkeypatch.setattr(importlib, "import_module", importer({}))
    with pytest.raises(PreconditionError, match=r"cuda-python or pycuda: pip install 'edgekd\[trt\]'.*pycuda.driver"):
        device_memory.open_device_memory()
