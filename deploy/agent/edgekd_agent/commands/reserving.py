"""Commands that keep operators from working on one device at once: lock, unlock."""

from __future__ import annotations

from argparse import Namespace

from edgekd_agent import locks
from edgekd_agent.commands.answer import Answer
from edgekd_agent.device import Site


def lock(site: Site, options: Namespace) -> Answer:
    """Reserve the device for an operator."""
    with locks.only_process(site.layout):
        holder = locks.reserve(site.layout, options.owner)
    document = {"schema_version": 1, "owner": holder.owner, "since": holder.since_s}
    return Answer(document, f"reserved for {holder.owner}")


def unlock(site: Site, options: Namespace) -> Answer:
    """Give the device back."""
    with locks.only_process(site.layout):
        was_held = locks.release(site.layout, options.owner, force=options.force)
    return Answer({"schema_version": 1, "was_reserved": was_held}, "free" if was_held else "was not reserved")
