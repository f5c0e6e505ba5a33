"""A runner without a network, for tests of what stands on the protocol: latency, accuracy, gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import BuildError
from edgekd.data import NetInputs
from edgekd.engine.backend import Runner
from edgekd.engine.inputs import InputShape


class FakeRunner:
    """Answers with a function of the inputs, and calls back on every run.

    Args:
        answer: Inputs `[B, C, H, W]` to logits `[B, K]`.
        shape: What it takes.
        facts: Added to its facts.
        on_run: Called once in every run; a test moves its clock here.
    """

    provider = "fake"

    def __init__(
        self,
        answer: Callable[[NetInputs], NDArray[np.float32]],
        shape: InputShape,
        *,
        facts: Mapping[str, Any] | None = None,
        on_run: Callable[[], None] | None = None,
    ) -> None:
        self._answer = answer
        self._shape = shape
        self._on_run = on_run
        self._is_open = True
        self.runs = 0
        self.facts: Mapping[str, Any] = {
            "backend": "fake",
            "threads": 1,
            "min_batch": shape.min_batch,
            "max_batch": shape.max_batch,
            **(facts or {}),
        }

    def run(self, inputs: NetInputs) -> NDArray[np.float32]:
        """Answer one batch; see `Runner.run`."""
        if not self._is_open:
            raise BuildError("the runner is closed")
        checked = self._shape.checked(inputs)
        self.runs += 1
        if self._on_run is not None:
            self._on_run()
        return self._answer(checked)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
