"""`edgekd cache`: what lies in a folder of teacher outputs, and removing some of it."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.outcome import Outcome, delivering
from edgekd.cli.table import format_table

if TYPE_CHECKING:
    from edgekd.distill.teacher_cache import Entry

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Teacher outputs kept on disk.")

Folder = Annotated[str, typer.Argument(help="What train.teacher_cache names: a folder, or auto.")]


def list_caches(folder: Folder = "auto") -> Outcome:
    """List what a folder of teacher outputs holds, the longest unchanged first.

    Example:
      edgekd cache list ./teacher-cache
    """
    from edgekd.distill.teacher_cache import cache_folder, entries, size_in_words

    place = cache_folder(folder)
    found = () if folder == "auto" and not place.exists() else entries(place)  # which the first run with it makes
    rows = [
        (
            entry.folder.name,
            str(entry.facts.get("teacher", "?"))[:12],
            str(entry.facts.get("data", "?"))[:12],
            f"{entry.facts.get('augmentation', '?')}, seed {entry.facts.get('views_seed', '?')}",
            ", ".join(f"{part} x {views}" for part, views in entry.parts.items()) or "-",
            size_in_words(entry.size_bytes),
            _day(entry.changed),
        )
        for entry in found
    ]
    table = format_table(("key", "teacher", "data", "views of", "part x views", "size", "changed"), rows)
    document = {"folder": str(place), "caches": [_document(entry) for entry in found]}
    return Outcome(document, table if found else f"no teacher caches in {place}")


def remove_cache(
    folder: Folder,
    key: Annotated[str, typer.Argument(help="Its key, or how that begins.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")] = False,
) -> Outcome:
    """Remove one teacher's outputs; runs that want them compute them again.

    Example:
      edgekd cache rm ./teacher-cache 3f2a
    """
    from edgekd.distill.teacher_cache import cache_folder, find, remove, size_in_words

    entry = find(cache_folder(folder), key)
    if not dry_run:
        remove(entry)
    said = f"{'would remove' if dry_run else 'removed'} {entry.folder}, {size_in_words(entry.size_bytes)}"
    return Outcome({"removed": [] if dry_run else [_document(entry)], "found": [_document(entry)]}, said)


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.folder.name,
        "folder": str(Path(entry.folder)),
        "facts": dict(entry.facts),
        "views": dict(entry.parts),
        "size_bytes": entry.size_bytes,
        "changed": datetime.fromtimestamp(entry.changed, timezone.utc).isoformat(timespec="seconds"),
    }


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")


app.command("list")(delivering(list_caches))
app.command("rm")(delivering(remove_cache))
