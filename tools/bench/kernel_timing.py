"""Timing of one loss in several implementations, in turns, on a CPU or a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[], object]
_L2_FLUSH_BYTES = 256 << 20
_LEAST_CPU_S = 2e-3
_LEAST_TURNS = 3
_LONGEST_S = 0.5


@dataclass(frozen=True)
class Times:
    """Milliseconds of one thing.

    Attributes:
        median_ms: Of all repeats.
        p20_ms: A fifth is faster.
        p80_ms: A fifth is slower.
    """

    median_ms: float
    p20_ms: float
    p80_ms: float


class Clock:
    """Times calls on one device.

    On a GPU each call is between two events and finds its inputs out of the L2 cache; on a CPU short calls are repeated
    until they fill two milliseconds, and what counts is the processor's time, which other programs do not lengthen: the
    process is to have one thread.

    Args:
        device: `"cuda"` or `"cpu"`.
    """

    def __init__(self, device: str) -> None:
        self.is_gpu = device == "cuda"
        self._flush = torch.empty(_L2_FLUSH_BYTES, dtype=torch.int8, device=device) if self.is_gpu else None
        self._copy_gb_s: dict[int, float] = {}

    def compare(self, steps: Mapping[str, Step], *, repeats: int) -> dict[str, Times]:
        """Time several calls in turns, so that what else the machine does falls on all alike.

        Args:
            steps: By name.
            repeats: Turns, after one that is not counted; fewer, but three, where all would take over half a second.
        """
        counts = {name: self._count(step) for name, step in steps.items()}
        found: dict[str, list[float]] = {name: [] for name in steps}
        started = time.monotonic()
        for turn in range(repeats):
            if turn >= _LEAST_TURNS and time.monotonic() - started > _LONGEST_S:
                break
            for name, step in steps.items():
                found[name].append(self._once_ms(step, counts[name]))
        return {name: _times(values) for name, values in found.items()}

    def copy_gb_s(self, size_bytes: int) -> float:
        """Return the rate of a copy that reads and writes this many bytes together, measured once for each size.

        Args:
            size_bytes: Read plus written; rounded up to a power of two.
        """
        size = 1 << max(12, (size_bytes - 1).bit_length())
        if size not in self._copy_gb_s:
            device = "cuda" if self.is_gpu else "cpu"
            source, target = (torch.zeros(size // 8, dtype=torch.float32, device=device) for _ in range(2))
            times = self.compare({"copy": lambda: target.copy_(source)}, repeats=20)
            self._copy_gb_s[size] = size / times["copy"].median_ms / 1e6
        return self._copy_gb_s[size]

    def _count(self, step: Step) -> int:
        """Return how many calls make one measurement, having made some already."""
        step()
        if self.is_gpu:
            for _ in range(2):
                step()
            torch.cuda.synchronize()
            return 1
        started = time.process_time()
        step()
        return max(1, round(_LEAST_CPU_S / max(1e-7, time.process_time() - started)))

    def _once_ms(self, step: Step, count: int) -> float:
        if self._flush is None:
            started = time.process_time()
            for _ in range(count):
                step()
            return 1e3 * (time.process_time() - started) / count
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))


def replayed(make: Callable[[], Step]) -> Step:
    """Return a call that replays a step's kernels from a CUDA graph, without what Python and launches cost.

    Args:
        make: Makes the step, which works on the same tensors at each call. It is called on the stream that is captured:
            autograd waits for the stream on which a leaf was first used, and the default one cannot be captured.

    Raises:
        RuntimeError: The step cannot be captured: it waits for the GPU, say.
    """
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step = make()
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        _refuse_waiting(step)
        torch.cuda.empty_cache()  # during a capture, what earlier graphs held is not given back
        try:
            graph.capture_begin(capture_error_mode="thread_local")  # what a profiler's thread does is no matter
            try:
                step()
            finally:
                graph.capture_end()
        except RuntimeError:
            graph.reset()  # and give its memory back
            raise
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


def _refuse_waiting(step: Step) -> None:
    """Call a step that may not wait for the GPU: a capture that fails keeps its memory for good."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def launches(step: Step) -> int:
    """Return how many kernels a step launches.

    Args:
        step: What is counted.
    """
    step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == on_gpu for event in profile.events())


def peak_mib(step: Step) -> float:
    """Return the GPU memory that a step needs beyond what lies there before.

    Args:
        step: What is measured.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def forward_of(function: Callable[..., Tensor], arguments: Mapping[str, object]) -> Callable[[], Tensor]:
    """Return a call of a loss that gives its mean.

    Args:
        function: Returns `[B]` or the mean.
        arguments: By name.
    """

    def forward() -> Tensor:
        return function(**arguments).mean()

    return forward


def _times(values: list[float]) -> Times:
    ordered = sorted(values)
    fifth = len(ordered) // 5
    return Times(statistics.median(ordered), ordered[fifth], ordered[-1 - fifth])
