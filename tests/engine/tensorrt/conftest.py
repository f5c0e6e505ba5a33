"""The fake TensorRT, in this process and in build processes, and fake GPU memory in this process."""

import ctypes
import enum
import importlib.util
import os
import types
from pathlib import Path

import pytest

FAKE = Path(__file__).parent / "fake" / "tensorrt.py"
VERSIONS = ("8.6", "10.3", "10.14", "11.4")


@pytest.fixture(scope="session")
def make_fake_tensorrt():
    spec = importlib.util.spec_from_file_location("fake_tensorrt_source", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make


def _seen_by_build_processes(version, monkeypatch):
    monkeypatch.setenv("EDGEKD_TEST_FAKE_TENSORRT", version)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE.parent), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(params=VERSIONS)
def trt(request, make_fake_tensorrt, monkeypatch):
    """A fake of each version, seen by build processes too."""
    _seen_by_build_processes(request.param, monkeypatch)
    return make_fake_tensorrt(request.param)


@pytest.fixture
def trt_10_3(make_fake_tensorrt, monkeypatch):
    """A fake of the version most boards have, seen by build processes too."""
    _seen_by_build_processes("10.3", monkeypatch)
    return make_fake_tensorrt("10.3")


@pytest.fixture
def cudart():
    """`cuda.bindings.runtime` on memory of this process; counts what is not freed.

    While its stream is captured, copies and what calls `record` are kept for the graph instead of being done.
    """
    module = types.ModuleType("cudart")
    module.cudaError_t = enum.IntEnum("cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})
    module.cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    mode = {"cudaStreamCaptureModeGlobal": 0, "cudaStreamCaptureModeThreadLocal": 1, "cudaStreamCaptureModeRelaxed": 2}
    module.cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", mode)
    module.live, module.streams, module.limit = {}, set(), 1 << 30
    module.recording, module.graphs, module.launches, module.captures = None, {}, 0, 0
    ok = module.cudaError_t.cudaSuccess

    def malloc(size):
        if size > module.limit:
            return module.cudaError_t.cudaErrorMemoryAllocation, None
        buffer = ctypes.create_string_buffer(size)
        module.live[ctypes.addressof(buffer)] = buffer
        return ok, ctypes.addressof(buffer)

    def free(address):
        del module.live[int(address)]
        return (ok,)

    def copy(target, source, size, kind, stream):
        device = target if kind == module.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert size <= len(module.live[device])
        assert stream in module.streams
        if module.record(lambda: ctypes.memmove(target, source, size)):
            return (ok,)
        ctypes.memmove(target, source, size)
        return (ok,)

    def create_stream():
        module.streams.add(7)
        return ok, 7

    def destroy_stream(stream):
        module.streams.remove(stream)
        return (ok,)

    def record(work):
        if module.recording is not None:
            module.recording.append(work)
        return module.recording is not None

    def begin(stream, mode):
        assert module.recording is None and stream in module.streams
        assert mode == module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        module.recording = []
        module.captures += 1
        return (ok,)

    def end(stream):
        steps, module.recording = module.recording, None
        module.graphs["graph"] = steps
        return ok, "graph"

    def instantiate(graph, flags):
        module.graphs["executable"] = module.graphs[graph]
        return ok, "executable"

    def destroy(graph):
        del module.graphs[graph]
        return (ok,)

    def launch(graph, stream):
        assert stream in module.streams
        module.launches += 1
        for step in module.graphs[graph]:
            step()
        return (ok,)

    module.record = record
    module.cudaHostAlloc, module.cudaFreeHost = lambda size, flags: malloc(size), free
    module.cudaStreamBeginCapture, module.cudaStreamEndCapture = begin, end
    module.cudaGraphInstantiate, module.cudaGraphDestroy = instantiate, destroy
    module.cudaGraphExecDestroy, module.cudaGraphLaunch = destroy, launch
    module.cudaMalloc, module.cudaFree, module.cudaMemcpyAsync = malloc, free, copy
    module.cudaStreamCreate, module.cudaStreamDestroy = create_stream, destroy_stream
    module.cudaStreamSynchronize = lambda stream: (ok,)
    module.cudaGetErrorName = lambda status: (ok, module.cudaError_t(status).name.encode())
    return module
