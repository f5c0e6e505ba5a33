"""The page of a search: what the space costs, every student tried, the Pareto front as a plot and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgekd.core.atomic import write_json, write_text
from edgekd.report import svg

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640.0, 360.0, 64.0, 44.0
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--line:#c9ced6;--good:#0b6e4f;--dim:#7a828e;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--paper:#14171b;--line:#3a414b;--good:#4cc9a0;--bad:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;width:100%;font-size:14px}th,td{text-align:left;padding:.25rem .6rem;
border-bottom:1px solid var(--line)}td.n{text-align:right;font-variant-numeric:tabular-nums}svg{width:100%;height:auto}
.grid{stroke:var(--line);stroke-width:.5}.tick{fill:var(--dim);font-size:11px}.dot{fill:var(--dim);fill-opacity:.5}
.stopped{fill:none;stroke:var(--dim)}.front{fill:var(--good)}.step{fill:none;stroke:var(--good);stroke-width:1.5}
.limit{stroke:var(--bad);stroke-dasharray:4 3}.found{fill:none;stroke:var(--good);stroke-width:2}
"""


def write_search_report(document: Mapping[str, Any], folder: Path) -> Path:
    """Write `search.json` and `search.html`.

    Args:
        document: What `edgekd search --json` prints.
        folder: Where to.

    Returns:
        The page.
    """
    write_json(folder / "search.json", {"schema_version": 1, **document})
    page = folder / "search.html"
    write_text(page, search_page(document))
    return page


def search_page(document: Mapping[str, Any]) -> str:
    """Return the page as self-contained HTML; arguments as for `write_search_report`."""
    budget = document["budget"] or "no budget"
    trained = [one for one in document["trials"] if one["score"] is not None]
    parts = [
        f"<h1>Students for {escape(document['target'])}, {escape(budget)}</h1>",
        f"<p>{escape(document['statement'])}.</p>",
        "<h2>Students found</h2>",
        _table(_FOUND, [_found_row(one) for one in document["finalists"]]),
        "<h2>Pareto front</h2>",
        pareto_chart(trained, document["front"], _limit_ms(document), _found_numbers(document)) if trained else "",
        _table(_TRIED, [_trial_row(one) for one in trained if one["number"] in document["front"]]),
    ]
    if document["refused"]:
        rows = [[one["name"], _score(one["score"]), one["reason"]] for one in document["refused"]]
        parts += ["<h2>Refused</h2>", _table(("student", "held-out score", "why"), rows)]
    parts += [
        "<h2>What the space costs</h2>",
        _table(_PROFILE, [_profile_row(one) for one in document["profile"]]),
        "<h2>Every student tried</h2>",
        _table((*_TRIED, "state"), [[*_trial_row(one), one["state"]] for one in document["trials"] if one["cost"]]),
    ]
    title = f"edgekd search: {document['target']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


_FOUND = ("student", "held-out score", "p50 ms", "p99 ms", "judged by", "memory MB", "file")
_TRIED = ("student", "held-out score", "epochs", "p50 ms", "p99 ms", "how", "memory MB")
_PROFILE = ("family", "member", "student", "MMACs", "p50 ms", "p99 ms", "how", "memory MB", "budget")


def pareto_chart(
    trained: Sequence[Mapping[str, Any]], front: Sequence[int], limit_ms: float | None, found: Sequence[int]
) -> str:
    """Draw score over latency: a disc for each student, a ring where training stopped early, the front joined.

    Args:
        trained: Trials with a score.
        front: Numbers of those on the front.
        limit_ms: The budget's limit on p99, or None.
        found: Numbers of those that are returned.

    Returns:
        SVG text.
    """
    times = [float(one["cost"]["figures"]["p99"]) for one in trained]
    scores = [float(one["score"]) for one in trained]
    shown = [*times, limit_ms] if limit_ms is not None and limit_ms < 4 * max(times) else times
    x_axis = svg.linear_axis([0.0, *shown], start=_LEFT, end=_WIDTH - 16)
    y_axis = svg.linear_axis(scores, start=_HEIGHT - _BOTTOM, end=14, margin=0.06)
    parts = []
    for tick in y_axis.ticks:
        parts.append(svg.line(_LEFT, y_axis.at(tick), _WIDTH - 16, y_axis.at(tick), "grid"))
        parts.append(svg.text(f"{tick:g}", _LEFT - 6, y_axis.at(tick) + 4, class_="tick", text_anchor="end"))
    for tick in x_axis.ticks:
        parts.append(svg.line(x_axis.at(tick), 14, x_axis.at(tick), _HEIGHT - _BOTTOM, "grid"))
        parts.append(
            svg.text(f"{tick:g}", x_axis.at(tick), _HEIGHT - _BOTTOM + 16, class_="tick", text_anchor="middle")
        )
    parts.append(
        svg.text("p99 in ms as the search knew it", _WIDTH - 16, _HEIGHT - 8, class_="tick", text_anchor="end")
    )
    parts.append(svg.text("held-out score", _LEFT, 10, class_="tick"))
    if limit_ms is not None and limit_ms <= x_axis.high:
        tip = f"budget: p99 < {limit_ms:g} ms"
        parts.append(
            svg.element(
                "g", svg.tip(tip) + svg.line(x_axis.at(limit_ms), 14, x_axis.at(limit_ms), _HEIGHT - _BOTTOM, "limit")
            )
        )
    on_front = sorted(
        (time, score) for one, time, score in zip(trained, times, scores, strict=True) if one["number"] in front
    )
    parts.append(svg.polyline(_steps([(x_axis.at(time), y_axis.at(score)) for time, score in on_front]), "step"))
    for one, time, score in zip(trained, times, scores, strict=True):
        class_ = "front" if one["number"] in front else "stopped" if one["state"] == "stopped" else "dot"
        tip = (
            f"trial {one['number']}, {one['cost']['name']}: {score:.4f} after {one['epochs']} epochs, p99 {time:.4g} ms"
        )
        parts.append(svg.element("circle", svg.tip(tip), cx=x_axis.at(time), cy=y_axis.at(score), r=4, class_=class_))
        if one["number"] in found:
            parts.append(svg.element("circle", cx=x_axis.at(time), cy=y_axis.at(score), r=8, class_="found"))
    label = f"Held-out score over p99 of {len(trained)} students, {len(on_front)} on the front"
    return svg.picture(parts, width=_WIDTH, height=_HEIGHT, label=label)


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join points of a front as a staircase: at a latency, the best score that is reached within it."""
    best: list[tuple[float, float]] = []
    for x, y in points:
        if best and y >= best[-1][1]:
            continue
        if best:
            best.append((x, best[-1][1]))
        best.append((x, y))
    return best


def _limit_ms(document: Mapping[str, Any]) -> float | None:
    limits = [clause["limit"] for clause in document["clauses"] if clause["metric"] == "p99"]
    return float(limits[0]) if limits else None


def _found_numbers(document: Mapping[str, Any]) -> list[int]:
    return [one["trial"] for one in document["finalists"]]


def _found_row(one: Mapping[str, Any]) -> list[str]:
    latency = one["cost"]["latency"]
    return [
        one["cost"]["name"],
        _score(one["score"]),
        f"{latency['p50_ms']:.4g}",
        f"{latency['p99_ms']:.4g}",
        _kind(latency),
        f"{one['cost']['memory_bytes'] / 1e6:.3g}",
        one["file"],
    ]


def _trial_row(one: Mapping[str, Any]) -> list[str]:
    latency = one["cost"]["latency"]
    return [
        one["cost"]["name"],
        _score(one["score"]),
        str(one["epochs"]),
        f"{latency['p50_ms']:.4g}",
        f"{latency['p99_ms']:.4g}",
        _kind(latency),
        f"{one['cost']['memory_bytes'] / 1e6:.3g}",
    ]


def _profile_row(one: Mapping[str, Any]) -> list[str]:
    latency = one["latency"]
    return [
        one["family"],
        one["corner"],
        one["name"],
        f"{one['macs'] / 1e6:.3g}",
        f"{latency['p50_ms']:.4g}",
        f"{latency['p99_ms']:.4g}",
        _kind(latency),
        f"{one['memory_bytes'] / 1e6:.3g}",
        "; ".join(one["misses"]) or "kept",
    ]


def _kind(latency: Mapping[str, Any]) -> str:
    return "measured" if latency["kind"] == "measured" else "predicted, not measured"


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
