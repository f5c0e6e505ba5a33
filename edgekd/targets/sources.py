"""What the numbers in brackets stand for that figures cite, as data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from edgekd.core.config import read_yaml

_NUMBER = re.compile(r"\[(\d+)\]")


def cited(texts: Iterable[str]) -> dict[str, str]:
    """Return the sources that status letters and notes cite, by number.

    Args:
        texts: Such as `"S [1][9]"`; of boards of one's own they may cite what is not known here.
    """
    known = read_yaml(Path(str(files("edgekd.targets") / "data" / "sources.yaml")))
    numbers = {number for text in texts for number in _NUMBER.findall(text)}
    return {number: known[number] for number in sorted(numbers, key=int) if number in known}
