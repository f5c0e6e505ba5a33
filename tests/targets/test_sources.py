"""Every number in brackets leads to a source, and every source is cited."""

import re
from importlib.resources import files

from edgekd.targets import cited, get_target

DATA = files("edgekd.targets") / "data"
LETTERED = re.compile(r"\bS ((?:\[\d+\])+)")


def test_numbers_that_figures_cite_have_a_source_and_no_source_is_left_over():
    texts = [path.read_text() for path in DATA.iterdir() if path.name != "sources.yaml"]
    cited_there = {number for text in texts for run in LETTERED.findall(text) for number in re.findall(r"\d+", run)}
    assert cited_there == cited(f"[{number}]" for number in range(100)).keys()


def test_sources_come_in_their_order_and_unknown_ones_are_left_out():
    found = cited(["S [10][2]", "D", "M of [99]", "S [2]"])
    assert list(found) == ["2", "10"]
    assert "Deep-Learning-Accelerator" in found["2"]
    assert cited(get_target("rtx-4090").sources.values()) == {}
