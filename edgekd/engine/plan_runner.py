"""Runs a serialised plan on a GPU; the same code for TensorRT 8.5 to 11.x and TensorRT-RTX.

Copies go through page-locked memory. From the third run of one batch size in a row on, copies and kernels are one CUDA
graph, where binding and plan allow that.

Not run on hardware yet: checked against a fake whose names are those of the true bindings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.core.artifacts import Engine
from edgekd.core.errors import BuildError
from edgekd.data import NetInputs
from edgekd.engine.backend import Runner
from edgekd.engine.device_memory import DeviceMemory
from edgekd.engine.inputs import InputShape
from edgekd.engine.plan_network import BuilderLog, make_logger


class PlanRunner:
    """An open plan with one execution context and device buffers for its largest batch.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        plan: Bytes of the plan.
        engine: The noun it comes from; its facts name input, output and batches.
        memory: Device memory; owned and released by the runner.

    Raises:
        BuildError: The runtime refused the plan.
    """

    def __init__(self, trt: ModuleType, plan: bytes, engine: Engine, memory: DeviceMemory) -> None:
        facts = engine.facts
        self._memory: DeviceMemory | None = memory
        self._names = (str(facts["input_name"]), str(facts["output_name"]))
        self._shape = InputShape(
            tuple(facts["input_shape"]), min_batch=int(facts["min_batch"]), max_batch=int(facts["max_batch"])
        )
        log = BuilderLog()
        try:
            self._plan = _LoadedPlan(trt, plan, log, has_runtime=bool(facts.get("portability", {}).get("version")))
            self._plan.require_types(trt, dict(zip(self._names, (self._shape.dtype.name, "float32"), strict=True)))
            values = self._shape.max_batch * int(np.prod(self._shape.sample))
            self._input = memory.allocate(self._shape.dtype.itemsize * values)
            classes = self._classes(self._shape.max_batch)
            self._output = memory.allocate(4 * self._shape.max_batch * classes)
            self._pages = (
                memory.host((self._shape.max_batch, *self._shape.sample), self._shape.dtype),
                memory.host((self._shape.max_batch, classes), np.float32),
            )
        except BuildError:
            memory.release()
            raise
        self.provider = f"{engine.backend} through {memory.name}"
        self._batch, self._is_recorded = 0, False
        self._replay: Callable[[], None] | None = None
        self.facts: dict[str, Any] = {
            "backend": engine.backend,
            "version": str(trt.__version__),
            "threads": 1,
            "min_batch": self._shape.min_batch,
            "max_batch": self._shape.max_batch,
            "compute_precisions": facts["fusion"]["compute_precisions"],
            "engine_digest": engine.digest,
            "cuda_graph": False,
        }

    def run(self, inputs: NetInputs) -> NDArray[np.float32]:
        """Copy in, run, copy out, wait; see `Runner.run`."""
        if self._memory is None:
            raise BuildError("the runner is closed")
        checked = self._shape.checked(inputs)
        source, result = (page[: len(checked)] for page in self._pages)
        np.copyto(source, checked)
        is_known = len(checked) == self._batch
        if not is_known:
            self._prepare(len(checked))
        if self._replay is not None:
            self._replay()
        else:
            self._enqueue(self._memory)
        self._memory.synchronize()
        if is_known and not self._is_recorded:
            self._record(self._memory)
        return result.copy()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._memory is not None:
            self._plan.close()
            self._memory.release()
            self._memory = None

    def _prepare(self, batch: int) -> None:
        """Set shapes and addresses for a batch size; what was recorded of another one is not used again."""
        self._batch, self._is_recorded, self._replay = 0, False, None
        self._classes(batch)
        self._plan.context.set_tensor_address(self._names[0], self._input)
        self._plan.context.set_tensor_address(self._names[1], self._output)
        self._batch = batch

    def _enqueue(self, memory: DeviceMemory) -> None:
        source, result = (page[: self._batch] for page in self._pages)
        memory.upload(self._input, source)
        if not self._plan.context.execute_async_v3(memory.stream):
            raise BuildError("the engine could not be run: " + "; ".join(self._plan.log.errors()))
        memory.download(result, self._output)

    def _record(self, memory: DeviceMemory) -> None:
        """Record a run, once a first one has set the plan up; one that waits for the GPU within cannot be recorded."""
        self._is_recorded = True
        try:
            self._replay = memory.captured(lambda: self._enqueue(memory))
        except BuildError as error:
            self.facts["cuda_graph"] = f"not recorded: {error}"
            return
        self.facts["cuda_graph"] = self._replay is not None or f"{memory.name} has none"

    def _classes(self, batch: int) -> int:
        context = self._plan.context
        if not context.set_input_shape(self._names[0], (batch, *self._shape.sample)):
            raise BuildError(f"the engine refused batch {batch}: " + "; ".join(self._plan.log.errors()))
        shape = tuple(context.get_tensor_shape(self._names[1]))
        if len(shape) != 2 or shape[0] != batch or shape[1] < 1:
            raise BuildError(f"the engine's output {self._names[1]!r} has shape {list(shape)}, expected [{batch}, K]")
        return int(shape[1])


class _LoadedPlan:
    def __init__(self, trt: ModuleType, plan: bytes, log: BuilderLog, *, has_runtime: bool) -> None:
        self.log = log
        self._logger = make_logger(trt, log, lambda line: None)
        self._runtime = trt.Runtime(self._logger)
        if has_runtime:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BuildError("the runtime refused the engine: " + ("; ".join(log.errors()) or "no reason given"))
        self.context = self._engine.create_execution_context()
        if self.context is None:
            raise BuildError("no execution context: " + ("; ".join(log.errors()) or "no reason given"))

    def require_types(self, trt: ModuleType, types: Mapping[str, str]) -> None:
        known = {"float32": trt.DataType.FLOAT, "int64": getattr(trt.DataType, "INT64", None)}  # none before 10
        for name, wanted in types.items():
            dtype = self._engine.get_tensor_dtype(name)
            if dtype != known[wanted]:
                raise BuildError(
                    f"tensor {name!r} of the engine is {dtype}; inputs and outputs keep their type, {wanted}"
                )

    def close(self) -> None:
        self.context = None
        self._engine = None
        self._runtime = None
