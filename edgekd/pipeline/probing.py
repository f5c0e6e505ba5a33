"""The stage that asks how well each student follows the teacher, which its score alone does not tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.core.artifacts import TrainedModel
from edgekd.distill import fidelities_of
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
        networks = [load_model(student) for student in students]
        figures = fidelities_of(networks, load_model(teacher), context.dataset.test)
        rows = [
            {"role": student.role, "seed": student.seed, "split": _SPLIT} | figure
            for student, figure in zip(students, figures, strict=True)
        ]
        return {"rows": rows}

    result = context.ledger.stage("fidelity", inputs, work)
    return tuple(FidelityRow(**row) for row in result["rows"])
