"""The strict builder itself, on plain data that no JSON parser would give it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
from edgekd_agent import strict


@dataclass(frozen=True)
class Inner:
    flag: bool


@dataclass(frozen=True)
class Outer:
    share: float
    word: Literal["a", 1]
    rows: tuple[Inner, ...]
    limits: Mapping[str, int]
    maybe: str | None


GOOD = {"share": 0.5, "word": 1, "rows": [{"flag": True}], "limits": {"x": 3}, "maybe": None}


def test_every_kind_of_field_is_built():
    problems: list[str] = []
    assert strict.build(Outer, GOOD, "it", problems) == Outer(0.5, 1, (Inner(True),), {"x": 3}, None)
    assert problems == []


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("share", math.nan, "it.share: nan is not finite"),
        ("share", True, "it.share: expected float, found bool"),
        ("word", True, "it.word: True is none of 'a', 1"),
        ("rows", [{"flag": 1}], "it.rows[0].flag: expected bool, found int"),
        ("rows", ({"flag": True},), "it.rows: expected a list, found tuple"),
        ("limits", {"x": 1.0}, "it.limits['x']: expected int, found float"),
        ("maybe", 3, "it.maybe: expected str, found int"),
    ],
)
def test_wrong_field_is_named_and_nothing_is_built(key, value, problem):
    problems: list[str] = []
    assert strict.build(Outer, {**GOOD, key: value}, "it", problems) is None
    assert problems == [problem]
