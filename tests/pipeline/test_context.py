"""How many inputs a run takes where it holds all their outputs at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.data import Task
from edgekd.pipeline.context import RunContext


def _context(kind, targets, shape) -> Any:
    dataset = SimpleNamespace(task=Task(kind, tuple(map(str, range(targets)))), input_shape=shape)
    return SimpleNamespace(dataset=dataset)


@pytest.mark.parametrize(
    ("kind", "targets", "shape", "values"),
    [
        ("classification", 10, (3, 32, 32), 3 * 32 * 32 + 10),
        ("regression", 4, (1, 8, 8), 64 + 8),
        ("segmentation", 21, (3, 512, 512), (3 + 21) * 512 * 512),
        ("classification", 2, (128,), 128 + 2),
    ],
)
def test_inputs_and_outputs_fit_into_the_bytes(kind, targets, shape, values):
    context = _context(kind, targets, shape)
    assert RunContext.affordable(context, 1000, 4 * values * 7) == 7
    assert RunContext.affordable(context, 1000, 4 * values * 7 - 1) == 6
    assert RunContext.affordable(context, 3, 4 * values * 7) == 3
    assert RunContext.affordable(context, 1000, 1) == 1
