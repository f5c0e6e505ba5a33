from edgekd.report import FidelityRow
from edgekd.report.wording import fidelity_sentence


def _row(role, seed, agreement, kl):
    return FidelityRow(role=role, seed=seed, split="test", agreement=agreement, kl=kl)


def test_the_sentence_gives_means_by_role():
    rows = (_row("alone", 0, 0.5, 1.0), _row("alone", 1, 0.7, 2.0), _row("distilled", 0, 0.9, 0.25))
    assert fidelity_sentence(rows) == (
        "Agreement with the teacher on the test split: alone 60.00 % (KL 1.50), distilled 90.00 % (KL 0.250)."
    )


def test_the_sentence_is_empty_without_rows():
    assert fidelity_sentence(()) == ""
