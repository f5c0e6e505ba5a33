"""Task accuracy of what will really be deployed: measured through the runner, not through the training framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgekd.core.errors import BuildError, DataError
from edgekd.engine.backend import Runner


def accuracy_of(runner: Runner, batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> float:
    """Measure top-1 accuracy through a runner.

    Batches larger than the engine takes are cut; smaller ones are filled with black pictures whose answers are
    dropped, so every picture counts exactly once whatever the engine's batch.

    Args:
        runner: An open engine.
        batches: Pairs of inputs float32 `[B, C, H, W]` and labels int64 `[B]`.

    Returns:
        Share of pictures whose largest logit is the label, 0..1.

    Raises:
        DataError: No pictures at all, another number of labels than pictures, or a label outside the classes.
        BuildError: The engine gave NaN or infinite logits.
    """
    correct = seen = 0
    for inputs, labels in batches:
        if labels.ndim != 1 or len(labels) != len(inputs):
            raise DataError(f"{len(inputs)} pictures came with labels of shape {list(labels.shape)}")
        for start, logits in _logits(runner, inputs):
            correct += _correct(logits, labels[start : start + len(logits)])
        seen += len(labels)
    if seen == 0:
        raise DataError("accuracy cannot be measured on no pictures")
    return correct / seen


def _logits(runner: Runner, inputs: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    smallest = int(runner.facts.get("min_batch", 1))
    largest = int(runner.facts.get("max_batch", 0)) or max(len(inputs), smallest)
    for start in range(0, len(inputs), largest):
        piece = inputs[start : start + largest]
        missing = max(0, smallest - len(piece))
        filled = np.concatenate([piece, np.zeros((missing, *piece.shape[1:]), piece.dtype)]) if missing else piece
        yield start, runner.run(filled)[: len(piece)]


def _correct(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    classes = logits.shape[1]
    if not np.isfinite(logits).all():
        raise BuildError("the engine gave NaN or infinite logits; its accuracy means nothing")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"labels {labels.min()}..{labels.max()} do not fit the engine's {classes} classes")
    return int((logits.argmax(axis=1) == labels).sum())
