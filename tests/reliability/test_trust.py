"""The experiments on trust, a small slice of each; the whole of them is run by hand and kept with the results."""

import parser_fuzzing
import pytest
import root_chains
import tampering


@pytest.mark.parametrize("one", root_chains.CHAINS, ids=[one.name for one in root_chains.CHAINS])
def test_chain_of_roots_ends_where_it_must(one, tmp_path):
    found, root_version = root_chains.outcome(one, tmp_path / "device")
    assert found in one.outcomes
    assert root_version == one.root_version


def test_tampered_files_are_all_refused(tmp_path):
    figures = tampering.run(tmp_path, every=37, places=3)
    assert figures["tampered"] > 300
    assert (figures["accepted_names"], figures["changed_names"]) == ([], [])
    assert set(figures["by_kind"]) >= {"metadata: one byte changed", "bundle: one bit of a blob", "tar: member .."}


def test_parsers_answer_with_a_value_or_their_own_error(tmp_path):
    figures = parser_fuzzing.run(tmp_path, examples=150)
    assert figures["failures"] == 0, figures
    assert all(one["inputs"] >= 15 for one in figures["by_parser"].values())
    assert figures["by_parser"]["bundle.json"]["accepted"] > 0
