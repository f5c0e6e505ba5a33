"""Axes hold their figures on round ticks; elements are well formed whatever is written in them."""

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report import svg

FIGURES = st.lists(
    st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1, max_size=9
)


@given(values=FIGURES, start=st.floats(0, 100), end=st.floats(200, 900))
def test_linear_axis_holds_its_figures_in_order(values, start, end):
    axis = svg.linear_axis(values, start=start, end=end)
    positions = [axis.at(value) for value in sorted(values)]
    assert positions == sorted(positions)
    assert min(positions) >= start - 1e-6
    assert max(positions) <= end + 1e-6
    assert axis.at(axis.ticks[0]) == pytest.approx(start)
    assert axis.at(axis.ticks[-1]) == pytest.approx(end)
    steps = [high - low for low, high in pairwise(axis.ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
    assert min(abs(mantissa - step) for step in (1, 2, 2.5, 5, 10)) < 0.01


def test_linear_axis_may_run_downwards():
    axis = svg.linear_axis([0, 10], start=200, end=0)
    assert (axis.at(0), axis.at(5), axis.at(10)) == (200, 100, 0)


@given(values=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9))
def test_log_axis_has_equal_lengths_for_equal_ratios(values):
    axis = svg.log_axis(values, start=0, end=100)
    assert axis.low <= min(values) * (1 + 1e-6)
    assert axis.high >= max(values) * (1 - 1e-6)
    lengths = [axis.at(high) - axis.at(low) for low, high in pairwise(axis.ticks)]
    assert lengths == pytest.approx([lengths[0]] * len(lengths))


@given(content=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30))
def test_any_text_gives_well_formed_elements(content):
    if any(ord(character) in (0xFFFE, 0xFFFF) for character in content):
        return
    picture = svg.picture([svg.text(content, 1, 2), svg.tip(content)], width=10, height=10, label=content)
    root = ElementTree.fromstring(picture)
    assert root.get("aria-label") == content
    assert root.findall("text")[0].text == (content or None)


def test_numbers_are_short():
    assert svg.line(1.0, 2.123456, 3, 0, "grid") == '<line x1="1" y1="2.12" x2="3" y2="0" class="grid"/>'
