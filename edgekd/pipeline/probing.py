"""The stage that asks how well each student follows the teacher, which its score alone does not tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.core.artifacts import TrainedModel
from edgekd.distill import fidelity_of, outputs_of
from edgekd.models import load_model
from edgekd.pipeline.context import RunContext
from edgekd.report import FidelityRow

_SPLIT = "test"


def fidelities(context: RunContext, teacher: TrainedModel, students: Sequence[TrainedModel]) -> tuple[FidelityRow, ...]:
    """Compare every student's answers on the test split with the teacher's; nothing is chosen by it."""
    inputs = {
        "teacher": teacher.digest,
        "students": [student.digest for student in students],
        "data": context.dataset.digest,
    }

    def work() -> dict[str, Any]:
        split = context.dataset.test
        expected = outputs_of(load_model(teacher), split)
        rows = [
            {"role": student.role, "seed": student.seed, "split": _SPLIT}
            | fidelity_of(outputs_of(load_model(student), split), expected, split.task)
            for student in students
        ]
        return {"rows": rows}

    result = context.ledger.stage("fidelity", inputs, work)
    return tuple(FidelityRow(**row) for row in result["rows"])
