"""How much may be under way at once: enough to fill a fast link, little enough that a slow one still answers.

A link at 1 kB/s would need hours to acknowledge eight megabytes, and meanwhile even its keep-alive would wait behind
them. So the window starts small, doubles while acknowledgements come fast and halves while they come slowly.
"""

from __future__ import annotations

MAX_REQUEST_BYTES = 256 << 10
MAX_REQUESTS = 32
_SMALLEST_BYTES = 16 << 10
_FAST_S = 1.0
_SLOW_S = 5.0


class Pace:
    """The window of one push.

    Args:
        max_request_bytes: Longest single write that the device accepts.
        max_requests: Most writes under way at once.
    """

    def __init__(self, max_request_bytes: int = MAX_REQUEST_BYTES, max_requests: int = MAX_REQUESTS) -> None:
        self._longest = max(1, min(max_request_bytes, MAX_REQUEST_BYTES))
        self._most = self._longest * max_requests
        self.window_bytes = min(2 * _SMALLEST_BYTES, self._most)

    @property
    def request_bytes(self) -> int:
        """Length of the next write: a quarter of the window, so that acknowledgements come evenly."""
        return min(self._longest, max(_SMALLEST_BYTES, self.window_bytes // 4))

    def acknowledged(self, took_s: float) -> None:
        """Learn how long a write took from its start to its acknowledgement."""
        if took_s < _FAST_S:
            self.window_bytes = min(2 * self.window_bytes, self._most)
        elif took_s > _SLOW_S:
            self.window_bytes = max(self.window_bytes // 2, _SMALLEST_BYTES)

    def allows(self, under_way_bytes: int) -> bool:
        """Tell whether another write may start; one always may."""
        return under_way_bytes == 0 or under_way_bytes + self.request_bytes <= self.window_bytes
