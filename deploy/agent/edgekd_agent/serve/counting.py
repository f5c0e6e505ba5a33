"""What the server counts, as Prometheus text."""

from __future__ import annotations

import threading
from collections import Counter

from edgekd_agent.report import sample

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Counts:
    """Requests by answer, and how long inference took; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[int] = Counter()
        self._buckets = [0] * len(_BOUNDS_S)
        self._total_s, self._runs = 0.0, 0
        self._failures = 0
        self._change_overs = 0

    def answered(self, code: int) -> None:
        """Count an answer."""
        with self._lock:
            self._answers[code] += 1

    def inferred(self, seconds: float) -> None:
        """Count an inference."""
        with self._lock:
            self._runs += 1
            self._total_s += seconds
            for index, bound in enumerate(_BOUNDS_S):
                self._buckets[index] += seconds <= bound

    def failed(self) -> None:
        """Count an inference that the engine could not do."""
        with self._lock:
            self._failures += 1

    def changed_over(self) -> None:
        """Count a change to another generation."""
        with self._lock:
            self._change_overs += 1

    @property
    def failures(self) -> int:
        """How many inferences the engine could not do."""
        return self._failures

    def text(self, generation: int) -> str:
        """Return everything as Prometheus text."""
        with self._lock:
            lines = [_head("edgekd_serve_generation", "gauge"), sample("edgekd_serve_generation", {}, generation)]
            lines.append(_head("edgekd_serve_requests_total", "counter"))
            for code, count in sorted(self._answers.items()):
                lines.append(sample("edgekd_serve_requests_total", {"code": str(code)}, count))
            for name, count in (("failures", self._failures), ("change_overs", self._change_overs)):
                lines.append(_head(f"edgekd_serve_{name}_total", "counter"))
                lines.append(sample(f"edgekd_serve_{name}_total", {}, count))
            lines.append(_head("edgekd_serve_inference_seconds", "histogram"))
            for bound, count in zip(_BOUNDS_S, self._buckets, strict=True):
                lines.append(sample("edgekd_serve_inference_seconds_bucket", {"le": f"{bound:g}"}, count))
            lines.append(sample("edgekd_serve_inference_seconds_bucket", {"le": "+Inf"}, self._runs))
            lines.append(sample("edgekd_serve_inference_seconds_sum", {}, self._total_s))
            lines.append(sample("edgekd_serve_inference_seconds_count", {}, self._runs))
        return "".join(lines)


def _head(name: str, kind: str) -> str:
    return f"# TYPE {name} {kind}\n"
