import pytest

from edgekd.report import FidelityRow, TaskFacts
from edgekd.report.wording import fidelity_sentence


def _row(role, seed, agreement, kl):
    return FidelityRow(role=role, seed=seed, split="test", agreement=agreement, kl=kl)


TOP_1 = TaskFacts(kind="classification", metric="top-1", is_share=True, agreement="same class")
R_SQUARED = TaskFacts(kind="regression", metric="R²", is_share=False, agreement="R² of means")


@pytest.mark.parametrize(
    ("task", "measure", "alone", "distilled"),
    [(TOP_1, "same class", "60.00 %", "90.00 %"), (R_SQUARED, "R² of means", "0.600", "0.900")],
)
def test_the_sentence_gives_means_by_role(task, measure, alone, distilled):
    rows = (_row("alone", 0, 0.5, 1.0), _row("alone", 1, 0.7, 2.0), _row("distilled", 0, 0.9, 0.25))
    assert fidelity_sentence(rows, task) == (
        f"Agreement with the teacher ({measure}) on the test split: alone {alone} (KL 1.50), "
        f"distilled {distilled} (KL 0.250)."
    )


def test_the_sentence_is_empty_without_rows():
    assert fidelity_sentence((), TOP_1) == ""
