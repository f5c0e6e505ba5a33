"""A profile as a Chrome trace, to be opened in Perfetto or chrome://tracing: every run, and the layers of one run.

Reference: the Trace Event Format of the Chromium project, complete events (`ph` X) and metadata (`ph` M); time in
microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.profile.document import Profile, Span

_PROCESS = 1
_LAYERS = "layers of one run, timed apart"


def chrome_trace(profile: Profile) -> dict[str, Any]:
    """Return the trace as JSON data.

    Args:
        profile: What was measured; its spans make one track each, its layers one more.

    Returns:
        An object with `traceEvents`. Spans of a track that overlap are put into lanes, since events of one thread must
        not. Layers lie end to end: their order is known and their own times are, when each started is not.
    """
    origin = min((span.start_ms for span in profile.spans), default=0.0)
    events: list[dict[str, Any]] = []
    threads: list[str] = []
    for track in dict.fromkeys(span.track for span in profile.spans):
        for lane, spans in enumerate(_lanes([span for span in profile.spans if span.track == track])):
            threads.append(track if lane == 0 else f"{track} {lane + 1}")
            events += [
                _event(track, span.start_ms - origin, span.end_ms - span.start_ms, len(threads), {"run": run})
                for run, span in spans
            ]
    if profile.layers:
        threads.append(_LAYERS)
        start_ms = 0.0
        for layer in profile.layers:
            facts = {"kind": layer.kind, "nodes": list(layer.nodes), "modules": list(layer.modules)}
            events.append(_event(layer.name, start_ms, layer.time_ms, len(threads), facts))
            start_ms += layer.time_ms
    report = profile.report
    names = [_name("process_name", 0, f"{profile.model} on {report.target}, {report.precision}, {report.backend}")]
    names += [_name("thread_name", thread, text) for thread, text in enumerate(threads, start=1)]
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ms", "otherData": {"latency": report.digest}}


def _lanes(spans: Sequence[Span]) -> list[list[tuple[int, Span]]]:
    lanes: list[list[tuple[int, Span]]] = []
    for run, span in sorted(enumerate(spans), key=lambda pair: pair[1].start_ms):
        free = next((lane for lane in lanes if lane[-1][1].end_ms <= span.start_ms), None)
        if free is None:
            lanes.append([(run, span)])
        else:
            free.append((run, span))
    return lanes


def _event(name: str, start_ms: float, duration_ms: float, thread: int, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "cat": "edgekd",
        "ph": "X",
        "ts": round(1e3 * start_ms, 3),
        "dur": round(1e3 * duration_ms, 3),
        "pid": _PROCESS,
        "tid": thread,
        "args": facts,
    }


def _name(what: str, thread: int, text: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": _PROCESS, "tid": thread, "args": {"name": text}}
