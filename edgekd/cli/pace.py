"""How long what is counted will still take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekd.core.events import Event

_MINUTE_S, _HOUR_S = 60, 3600


@dataclass(frozen=True)
class _Stretch:
    """A count that has only risen since it began.

    Attributes:
        begun_s: When.
        begun: What was done then: what an earlier run had done cost this one no time.
        done: What is done.
    """

    begun_s: float
    begun: int
    done: int


class Pace:
    """Follows progress, and says by its pace since a count began what is left; counts of other totals are others."""

    def __init__(self) -> None:
        self._stretches: dict[tuple[str, int], _Stretch] = {}

    def left_s(self, event: Event, now_s: float) -> float | None:
        """Return the seconds that a count will still take; None where there is no total, or no pace yet.

        Args:
            event: Progress; each has to be given, in order.
            now_s: The time.
        """
        key = (event.stage, event.total)
        known = self._stretches.get(key)
        if known is None or event.done < known.done:
            self._stretches[key] = _Stretch(now_s, event.done, event.done)
            return None
        known = self._stretches[key] = replace(known, done=event.done)
        gained = known.done - known.begun
        if not event.total or not gained:
            return None
        return max(0, event.total - known.done) * (now_s - known.begun_s) / gained


def left_in_words(left_s: float) -> str:
    """Return `"about 40 s left"`, in seconds, minutes or hours."""
    if left_s < 1.5 * _MINUTE_S:
        return f"about {left_s:.0f} s left"
    if left_s < 1.5 * _HOUR_S:
        return f"about {left_s / _MINUTE_S:.0f} min left"
    return f"about {left_s / _HOUR_S:.1f} h left"
