"""What every stage of a run is given, and how stages keep their nouns in the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgekd.core.artifacts import from_json, to_json
from edgekd.core.budget import Budget
from edgekd.core.events import Event, Listener
from edgekd.data import Dataset
from edgekd.distill import Recipe
from edgekd.distill.group import Group
from edgekd.pipeline.config import RunConfig
from edgekd.pipeline.ledger import Ledger
from edgekd.targets import Target

N = TypeVar("N")

TOKENIZER_FILE = "tokenizer.json"
"""Where a run on texts keeps what turns a text into its network's input."""


@dataclass(frozen=True)
class RunContext:
    """One run.

    Attributes:
        config: What was asked.
        budget: Its limits, or None.
        target: Device the student is for.
        recipe: Distillation method.
        dataset: The data, loaded.
        ledger: Record of the run folder.
        listener: Told of progress.
        group: The processes that train together, this one the first, or None.
    """

    config: RunConfig
    budget: Budget | None
    target: Target
    recipe: Recipe
    dataset: Dataset
    ledger: Ledger
    listener: Listener
    group: Group | None = None

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.ledger.folder

    def affordable(self, wanted: int, size_bytes: int) -> int:
        """Return how many of `wanted` inputs fit, with their outputs, into so many bytes; at least one."""
        shape, task = self.dataset.input_shape, self.dataset.task
        outputs = task.num_outputs * (math.prod(shape[1:]) if task.is_dense else 1)
        return max(1, min(wanted, size_bytes // (4 * (math.prod(shape) + outputs))))

    def note(self, stage: str, message: str) -> None:
        """Tell the user something."""
        self.listener(Event("note", stage, message))

    def noun(self, kind: type[N], stage: str, inputs: Mapping[str, Any], make: Callable[[], N]) -> N:
        """Return the noun a stage makes, from the ledger when it is done already.

        Args:
            kind: The noun's class.
            stage: Stage name.
            inputs: Plain data that decides the result.
            make: Does the work.
        """
        return from_json(kind, self.ledger.stage(stage, inputs, lambda: to_json(make())))
