"""How a device was told to build, confirm and serve."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from edgekd_agent import documents
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import Layout


@dataclass(frozen=True)
class Settings:
    """The content of `agent.json`; what is not there has these values.

    Attributes:
        confirm_by: `"check"`: the health check after the switch decides. `"heartbeat"`: what serves must report the
            new generation as healthy, or the switch is undone.
        confirm_minutes: How long to wait for that.
        confirm_beats: How many healthy reports in a row it takes.
        build_timeout_s: Longest time for a build.
        build_memory_mib: Most memory for a builder, or None for what is free.
        check_timeout_s: Longest time for a health check without its soak.
        soak_s: How long the candidate runs after the timed windows; 0 for not at all.
        reserve_mib: Disk space that an install leaves free.
        max_temperature_c: Hottest thermal zone at which a build may start; None for any.
        port: Port of the inference server on 127.0.0.1; 0 for none.
        socket: Path of its Unix socket; empty for `serve.sock` below the root.
        max_request_mib: Longest request it accepts.
    """

    confirm_by: Literal["check", "heartbeat"] = "check"
    confirm_minutes: float = 5.0
    confirm_beats: int = 3
    build_timeout_s: float = 1800.0
    build_memory_mib: int | None = None
    check_timeout_s: float = 300.0
    soak_s: float = 0.0
    reserve_mib: int = 64
    max_temperature_c: float | None = None
    port: int = 8765
    socket: str = ""
    max_request_mib: int = 64


_WHOLE = ("confirm_beats", "build_memory_mib", "reserve_mib", "port", "max_request_mib")
_LEAST = {"confirm_beats": 1}
_MOST = {"port": 65535}


@dataclass(frozen=True)
class Site:
    """A device as the agent works on it.

    Attributes:
        layout: Where things lie.
        settings: How it was told to work.
    """

    layout: Layout
    settings: Settings = field(default_factory=Settings)


def read_site(layout: Layout) -> Site:
    """Read the settings, if any.

    Raises:
        AgentError: `agent.json` is there and wrong.
    """
    if not layout.settings.exists():
        return Site(layout)
    document = documents.read(layout.settings)
    if document is None:
        raise AgentError("precondition", f"{layout.settings} is no JSON object")
    known = {item.name: item for item in fields(Settings)}
    problems = [f"unknown key {key!r}" for key in sorted(document.keys() - known.keys() - {"schema_version"})]
    if document.get("schema_version") != 1:
        problems.append(f"schema_version {document.get('schema_version')!r} is not known; this agent reads 1")
    given = {key: value for key, value in document.items() if key in known}
    problems += [f"{key}: {value!r} is not allowed" for key, value in given.items() if not _is_allowed(key, value)]
    if problems:
        raise AgentError("precondition", f"{layout.settings}: " + "; ".join(problems))
    return Site(layout, replace(Settings(), **given))


def _is_allowed(key: str, value: Any) -> bool:
    if key == "confirm_by":
        return value in ("check", "heartbeat")
    if key == "socket":
        return isinstance(value, str)
    if value is None:
        return key in ("build_memory_mib", "max_temperature_c")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    is_within = _LEAST.get(key, 0) <= value <= _MOST.get(key, math.inf)
    return is_within and (isinstance(value, int) or key not in _WHOLE)


def require_allowed(key: str, value: Any) -> None:
    """Refuse what a setting may not be; raises `AgentError`."""
    if not _is_allowed(key, value):
        raise AgentError("usage", f"{key}: {value!r} is not allowed")
