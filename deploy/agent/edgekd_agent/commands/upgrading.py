"""The command `upgrade`: a new agent in the place of this one, by the same switch as for engines."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from edgekd_agent import durable
from edgekd_agent.commands.answer import Answer
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import checked_digest
from edgekd_agent.reader import digest_of

PROGRAM = "edgekd-agent.pyz"
_MAX_AGENT_BYTES = 16 << 20
_TIMEOUT_S = 30
_LINK, _PREVIOUS = "agent", "agent.previous"


def upgrade(options: Namespace) -> Answer:
    """Copy, verify, try and switch to a new agent; the old one stays beside it as `agent.previous`."""
    folder: Path = options.into
    try:
        digest = checked_digest(options.sha256)
    except ValueError as error:
        raise AgentError("usage", str(error)) from error
    if not options.program.is_file():
        raise AgentError("usage", f"{options.program} is not a file")
    content = _content(options.program)
    if hashlib.sha256(content).hexdigest() != digest:
        raise AgentError("damaged", f"{options.program} has not the digest {digest}; copy it again")
    place = folder / f"agent-{digest[:16]}"
    if not _is_whole(place / PROGRAM, digest):
        _put(place, content)
    version = _tried(place / PROGRAM)
    before = _target_of(folder / _LINK)
    if before != place.name:
        if before is not None:
            durable.replace_link(folder / _PREVIOUS, before)
        durable.replace_link(folder / _LINK, place.name)
        _remove_others(folder, {place.name, before})
    document = {"schema_version": 1, "agent": version, "path": str(folder / _LINK / PROGRAM), "before": before}
    return Answer(document, f"agent {version} is in place; services take it at their next start")


def _content(program: Path) -> bytes:
    with open(program, "rb") as stream:
        content = stream.read(_MAX_AGENT_BYTES + 1)
    if len(content) > _MAX_AGENT_BYTES:
        raise AgentError("usage", f"{program} is longer than {_MAX_AGENT_BYTES} bytes")
    return content


def _is_whole(program: Path, digest: str) -> bool:
    return program.is_file() and digest_of(program, _MAX_AGENT_BYTES) == digest


def _put(place: Path, content: bytes) -> None:
    candidate = place.with_name(place.name + durable.NEW)
    durable.make_folder(place.parent)
    durable.remove_tree(candidate)
    durable.mkdir(candidate)
    durable.write_new(candidate / PROGRAM, content, 0o555)
    durable.fsync_folder(candidate)
    durable.remove_tree(place)
    durable.rename(candidate, place)
    durable.fsync_folder(place.parent)


def _tried(program: Path) -> str:
    """Let the new agent say its version, as it will run: alone, in a process of its own."""
    words = [sys.executable, "-I", str(program), "version", "--json"]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False)
        version = json.loads(done.stdout)["agent"] if done.returncode == 0 else None
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
        version = None
    if not isinstance(version, str):
        raise AgentError("failed", f"{program} does not start on this device; the agent was not changed")
    return version


def _target_of(link: Path) -> str | None:
    return link.readlink().name if link.is_symlink() else None


def _remove_others(folder: Path, kept: set[str | None]) -> None:
    for path in sorted(folder.glob("agent-*")):
        if path.name not in kept:
            durable.remove_tree(path)
