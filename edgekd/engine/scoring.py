"""Task score of what will really be deployed: measured through the runner, not through the training framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from edgekd.core.errors import BuildError, DataError
from edgekd.data import Labels, NetInputs, Outputs, Task
from edgekd.engine.backend import Runner


def score_of(runner: Runner, batches: Iterable[tuple[NetInputs, Labels]], task: Task) -> float:
    """Measure a task's score through a runner.

    Batches larger than the engine takes are cut; smaller ones are filled with zeros whose answers are dropped, so every
    input counts exactly once whatever the engine's batch.

    Args:
        runner: An open engine.
        batches: Pairs of inputs `[B, ...]` and labels `[B, ...]`.
        task: What the labels are, and the score.

    Returns:
        The score, at most 1.0.

    Raises:
        DataError: No inputs at all, another number of labels than inputs, or labels that are not of the task.
        BuildError: The engine gave outputs of another length, NaN or infinite ones.
    """
    return task.metric.over(pair for inputs, labels in batches for pair in _judged(runner, inputs, labels, task))


def _judged(runner: Runner, inputs: NetInputs, labels: Labels, task: Task) -> Iterator[tuple[Outputs, Labels]]:
    task.check_labels(labels)
    if len(labels) != len(inputs):
        raise DataError(f"{len(inputs)} inputs came with labels of shape {list(labels.shape)}")
    smallest = int(runner.facts.get("min_batch", 1))
    largest = int(runner.facts.get("max_batch", 0)) or max(len(inputs), smallest)
    for start in range(0, len(inputs), largest):
        piece = inputs[start : start + largest]
        missing = max(0, smallest - len(piece))
        filled = np.concatenate([piece, np.zeros((missing, *piece.shape[1:]), piece.dtype)]) if missing else piece
        outputs = runner.run(filled)[: len(piece)]
        _check_outputs(outputs, task)
        yield outputs, labels[start : start + len(piece)]


def _check_outputs(outputs: Outputs, task: Task) -> None:
    if outputs.shape[1] != task.num_outputs:
        raise BuildError(f"the engine gave {outputs.shape[1]} outputs where {task.kind} has {task.num_outputs}")
    if not np.isfinite(outputs).all():
        raise BuildError("the engine gave NaN or infinite outputs; its score means nothing")
