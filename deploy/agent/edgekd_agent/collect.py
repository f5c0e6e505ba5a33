"""Removes what nothing needs any more; only when no install is under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgekd_agent import durable, generations, journal, staging
from edgekd_agent.device import Site
from edgekd_agent.generations import Generation
from edgekd_agent.install.work import wanted_artifacts
from edgekd_agent.layout import Layout

_TIMING_CACHES_KEPT = 8
_LOGS_KEPT = 16


@dataclass(frozen=True)
class Collected:
    """What was removed.

    Attributes:
        generations: How many generations.
        builds: How many engines.
        blobs: How many blobs.
        freed_bytes: Bytes of blobs and engines.
    """

    generations: int
    builds: int
    blobs: int
    freed_bytes: int


def collect(site: Site) -> Collected:
    """Keep `current`, `previous` and what they link to; remove the rest, generations first.

    Nothing here is made durable: what a power loss brings back is not led to, and goes the next time.
    """
    layout = site.layout
    kept = [found for link in (layout.current, layout.previous) if (found := generations.linked(link)) is not None]
    old = [path for path in _entries(layout.generations) if path.name not in {str(item.number) for item in kept}]
    for path in old:
        durable.remove_tree(path)
    builds = [path for path in _entries(layout.builds) if path.name not in {item.engine_key for item in kept}]
    blobs = [path for path in _blobs(layout) if path.name not in _wanted(kept)]
    freed_bytes = sum(map(_size_bytes, [*builds, *blobs]))
    for path in (*builds, *blobs):
        durable.remove_tree(path)
    _remove_small_things(layout)
    journal.tidy(layout)
    return Collected(len(old), len(builds), len(blobs), freed_bytes)


def _wanted(kept: list[Generation]) -> set[str]:
    return {item.sha256 for one in kept for item in wanted_artifacts(one.manifest, one.engine_key)}


def _remove_small_things(layout: Layout) -> None:
    for folder, count in ((layout.timing, _TIMING_CACHES_KEPT), (layout.logs, _LOGS_KEPT)):
        newest = sorted(_entries(folder), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest[count:]:
            durable.remove_tree(path)
    staging.sweep(layout)
    for path in sorted(layout.root.glob("journal.damaged-*"))[:-2]:
        durable.remove(path)


def _blobs(layout: Layout) -> Iterator[Path]:
    for folder in _entries(layout.blobs):
        yield from _entries(folder)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size_bytes(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(_size_bytes(entry) for entry in path.iterdir())
    return path.lstat().st_size
