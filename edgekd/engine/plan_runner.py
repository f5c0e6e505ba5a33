"""Runs a serialised plan on a GPU; the same code for TensorRT 8.5 to 11.x and TensorRT-RTX.

Not run on hardware yet: checked against a fake whose names are those of the true bindings.
"""

from __future__ import annotations

from collections.abc import Mapping
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
            self._plan = _LoadedPlan(trt, plan, log)
            self._plan.require_types(trt, dict(zip(self._names, (self._shape.dtype.name, "float32"), strict=True)))
            values = self._shape.max_batch * int(np.prod(self._shape.sample))
            self._input = memory.allocate(self._shape.dtype.itemsize * values)
            self._output = memory.allocate(4 * self._shape.max_batch * self._classes(self._shape.max_batch))
        except BuildError:
            memory.release()
            raise
        self.provider = f"{engine.backend} through {memory.name}"
        self.facts: Mapping[str, Any] = {
            "backend": engine.backend,
            "version": str(trt.__version__),
            "threads": 1,
            "min_batch": self._shape.min_batch,
            "max_batch": self._shape.max_batch,
            "compute_precisions": facts["fusion"]["compute_precisions"],
            "engine_digest": engine.digest,
        }

    def run(self, inputs: NetInputs) -> NDArray[np.float32]:
        """Copy in, run, copy out, wait; see `Runner.run`."""
        if self._memory is None:
            raise BuildError("the runner is closed")
        checked = self._shape.checked(inputs)
        outputs = np.empty((len(checked), self._classes(len(checked))), np.float32)
        context = self._plan.context
        context.set_tensor_address(self._names[0], self._input)
        context.set_tensor_address(self._names[1], self._output)
        self._memory.upload(self._input, checked)
        if not context.execute_async_v3(self._memory.stream):
            raise BuildError("the engine could not be run: " + "; ".join(self._plan.log.errors()))
        self._memory.download(outputs, self._output)
        self._memory.synchronize()
        return outputs

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._memory is not None:
            self._plan.close()
            self._memory.release()
            self._memory = None

    def _classes(self, batch: int) -> int:
        context = self._plan.context
        if not context.set_input_shape(self._names[0], (batch, *self._shape.sample)):
            raise BuildError(f"the engine refused batch {batch}: " + "; ".join(self._plan.log.errors()))
        shape = tuple(context.get_tensor_shape(self._names[1]))
        if len(shape) != 2 or shape[0] != batch or shape[1] < 1:
            raise BuildError(f"the engine's output {self._names[1]!r} has shape {list(shape)}, expected [{batch}, K]")
        return int(shape[1])


class _LoadedPlan:
    def __init__(self, trt: ModuleType, plan: bytes, log: BuilderLog) -> None:
        self.log = log
        self._logger = make_logger(trt, log, lambda line: None)
        self._runtime = trt.Runtime(self._logger)
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
