"""Just enough SVG for three charts: elements with escaped content, and axes that choose round ticks.

Colours are CSS classes of the page, so that a chart follows dark mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """Return one element.

    Args:
        name: Tag.
        content: Its inside, already SVG.
        attributes: Its attributes; `_` becomes `-` and a trailing `_` is dropped (`class_`); values are escaped.

    Returns:
        SVG text.
    """
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_spelt(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(content: str, x: float, y: float, **attributes: str | float) -> str:
    """Return a text element; `content` is escaped."""
    return element("text", escape(content), x=x, y=y, **attributes)


def tip(content: str) -> str:
    """Return the tooltip to put inside an element; `content` is escaped."""
    return element("title", escape(content))


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def polyline(points: Iterable[tuple[float, float]], class_: str, content: str = "") -> str:
    """Return a line through points."""
    return element("polyline", content, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def picture(parts: Iterable[str], *, width: float, height: float, label: str) -> str:
    """Return a whole SVG that scales with its column.

    Args:
        parts: Its elements.
        width: Width of its own coordinates.
        height: Height of its own coordinates.
        label: What it shows, for those who cannot see it.

    Returns:
        SVG text.
    """
    view_box = f"0 0 {width:g} {height:g}"
    return element("svg", tip(label) + "".join(parts), viewBox=view_box, role="img", aria_label=label, class_="chart")


def _spelt(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Axis:
    """A scale from figures to positions.

    Attributes:
        low: Figure at `start`.
        high: Figure at `end`.
        start: Position of `low`.
        end: Position of `high`; may be smaller than `start`.
        ticks: Figures to mark.
        is_log: Whether equal ratios have equal lengths.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the position of a figure."""
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def linear_axis(values: Sequence[float], *, start: float, end: float, count: int = 5, margin: float = 0.0) -> Axis:
    """Choose a linear axis that holds all values and ends on round ticks.

    Args:
        values: Figures to show; at least one.
        start: Position of the low end.
        end: Position of the high end.
        count: About how many ticks.
        margin: Room beyond the values on both sides, as a share of their range.

    Returns:
        The axis.
    """
    low, high = min(values), max(values)
    room = margin * (high - low) if high > low else max(abs(high) * 0.05, 1e-9)
    low, high = low - room, high + room
    step = _round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks)


def log_axis(values: Sequence[float], *, start: float, end: float) -> Axis:
    """Choose a logarithmic axis over whole decades that holds all values, which are above zero."""
    first = math.floor(math.log10(min(values)) + 1e-9)
    last = max(math.ceil(math.log10(max(values)) - 1e-9), first + 1)
    return Axis(
        10.0**first, 10.0**last, start, end, tuple(10.0**power for power in range(first, last + 1)), is_log=True
    )


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in _ROUND if factor * power >= step * (1 - 1e-9))
