"""What the agent does and has done: JSON lines with sequence number and checksum, each durable before the next step.

A last line cut short by a power loss is dropped when the next one is written. A journal damaged anywhere else is set
aside: the agent then goes on from what `current` says.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd_agent import durable, strict
from edgekd_agent.layout import Layout

_MAX_JOURNAL_BYTES = 4 << 20
_COMPACT_BYTES = 128 << 10
_KEPT_RECORDS = 64


@dataclass(frozen=True)
class Record:
    """One line.

    Attributes:
        sequence: Grows by one with each line.
        state: State entered, or an event that changes none (`"note"`).
        time_s: When, by the device's clock.
        facts: What goes with it.
    """

    sequence: int
    state: str
    time_s: float
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """What a journal says.

    Attributes:
        records: Its lines, oldest first.
        sound_bytes: Length of the part that is whole.
        is_torn: Whether the last line was cut short.
        is_damaged: Whether something before the last line is wrong.
    """

    records: tuple[Record, ...] = ()
    sound_bytes: int = 0
    is_torn: bool = False
    is_damaged: bool = False


def read(path: Path) -> Reading:
    """Read a journal; an absent one is empty."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MAX_JOURNAL_BYTES + 1)
    except FileNotFoundError:
        return Reading()
    except OSError:
        return Reading(is_damaged=True)
    if len(content) > _MAX_JOURNAL_BYTES:
        return Reading(is_damaged=True)
    return _parsed(content)


def append(layout: Layout, state: str, facts: Mapping[str, Any]) -> Record:
    """Add a line; it is durable when this returns.

    Raises:
        OSError: The disk refused; nothing half-written stays in the way of the next line.
    """
    reading = _sound(layout)
    last = reading.records[-1].sequence if reading.records else 0
    record = Record(last + 1, state, round(time.time(), 3), dict(facts))
    durable.append(layout.journal, _line(record))
    return record


def tidy(layout: Layout) -> None:
    """Keep the newest lines of a journal that has grown; only between two installs."""
    reading = read(layout.journal)
    if reading.sound_bytes > _COMPACT_BYTES and not reading.is_damaged:
        kept = reading.records[-_KEPT_RECORDS:]
        durable.replace_file(layout.journal, b"".join(map(_line, kept)))


def _sound(layout: Layout) -> Reading:
    """Make the journal fit to be added to: cut a torn end, set a damaged one aside."""
    reading = read(layout.journal)
    if reading.is_damaged:
        durable.rename(layout.journal, layout.journal.with_name(f"journal.damaged-{int(time.time())}"))
        return Reading()
    if reading.is_torn:
        durable.truncate(layout.journal, reading.sound_bytes)
    return reading


def _line(record: Record) -> bytes:
    body = strict.canonical([record.sequence, record.state, record.time_s, dict(record.facts)])
    return hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n"


def _parsed(content: bytes) -> Reading:
    records: list[Record] = []
    position = 0
    while position < len(content):
        end = content.find(b"\n", position)
        record = _record(content[position:end]) if end >= 0 else None
        if record is None or (records and record.sequence != records[-1].sequence + 1):
            is_last = end < 0 or not content[end + 1 :].strip(b"\0")
            return Reading(tuple(records), position, is_torn=is_last, is_damaged=not is_last)
        records.append(record)
        position = end + 1
    return Reading(tuple(records), position)


def _record(line: bytes) -> Record | None:
    checksum, _, body = line.partition(b" ")
    if hashlib.sha256(body).hexdigest()[:16].encode() != checksum:
        return None
    try:
        sequence, state, time_s, facts = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if type(sequence) is not int or not isinstance(state, str) or not isinstance(facts, dict):
        return None
    return Record(sequence, state, float(time_s), facts)
