"""Runs the server: sockets, the watch on `current`, the heartbeat."""

from __future__ import annotations

import contextlib
import os
import signal
import socketserver
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edgekd_agent import documents, durable
from edgekd_agent.device import Site
from edgekd_agent.engine.running import Refused
from edgekd_agent.errors import AgentError
from edgekd_agent.install.confirm import Beat, write_beat
from edgekd_agent.serve.answering import Handler
from edgekd_agent.serve.counting import Counts
from edgekd_agent.serve.holding import Held, open_current
from edgekd_agent.sockets import BoundedThreads, remove_dead

_LOOK_S = 0.25
_BEAT_LOOKS = 4
_QUIET_LOOKS = 240
_AGAIN_S = 10.0
_SOCKET_NAME = "serve.sock"


class Service:
    """What is served, and how it fares.

    Args:
        site: The device.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.counts = Counts()
        self.held: Held | None = None
        self.problem = ""
        self.ended = threading.Event()
        self._link = ""
        self._ill: tuple[int, str] | None = None
        self._again_at_s = 0.0
        self._beats = 0
        self._failures_seen = 0

    def look(self) -> None:
        """Change over to another generation when `current` leads to one.

        Requests under way end on the engine they began with. One that cannot be opened is not served: what was held
        goes on, and the missing heartbeat tells that something is wrong.
        """
        link = _text_of(self.site.layout.current)
        if link == self._link and (self._ill is None or time.monotonic() < self._again_at_s):
            return
        self._link, self._again_at_s = link, time.monotonic() + _AGAIN_S
        try:
            held = open_current(self.site)
        except (AgentError, Refused, OSError) as error:
            number = link.rpartition("/")[2]
            self._ill = (int(number) if number.isdigit() else 0, str(error))
            self.problem = str(error)
            _say(f"cannot serve what current leads to: {error}")
            return
        self._ill, self.problem = None, ""
        if held is not None:
            self.held = held
            self.counts.changed_over()
            name = f"{held.generation.manifest.name} {held.generation.manifest.version}"
            _say(f"serves generation {held.generation.number}: {name}")

    def beat(self) -> None:
        """Leave a sign of life: a test with the golden inputs, and whether requests since the last one failed."""
        held = self.held
        if self._ill is not None:
            self._write(*self._ill)
            return
        if held is None:
            return
        failures = self.counts.failures
        failed = failures - self._failures_seen
        self._failures_seen = failures
        problem = held.self_test() or (f"{failed} requests failed" if failed else "")
        self._write(held.generation.number, problem)

    def _write(self, generation: int, problem: str) -> None:
        self._beats += 1
        with contextlib.suppress(OSError):  # a full disk must not stop what serves
            write_beat(self.site, Beat(generation, self._beats, os.getpid(), not problem, problem))

    def health(self) -> dict[str, Any]:
        """Return what `/health` says."""
        held = self.held
        return {
            "is_ok": held is not None and not self.problem,
            "problem": self.problem or ("" if held else "no release runs on this device yet"),
            "current": dict(held.generation.summary()) if held else None,
        }

    def watch(self) -> None:
        """Look and beat until the service ends; often while a generation is on trial, rarely else."""
        looks = 0
        while not self.ended.wait(_LOOK_S):
            before = self.held
            self.look()
            looks = 0 if self.held is not before else looks + 1
            is_on_trial = (documents.read(self.site.layout.status) or {}).get("state") == "confirming"
            if looks % (_BEAT_LOOKS if is_on_trial else _QUIET_LOOKS) == 0:
                self.beat()


def run(site: Site, *, port: int | None = None, socket: Path | None = None) -> None:
    """Serve until the process is asked to end.

    Args:
        site: The device.
        port: Port on 127.0.0.1, 0 for none; from the settings by default.
        socket: Path of the Unix socket; from the settings by default.

    Raises:
        AgentError: No socket could be opened.
    """
    service = Service(site)
    chosen_port = site.settings.port if port is None else port
    path = socket or Path(site.settings.socket or site.layout.root / _SOCKET_NAME)
    servers = _servers(service, chosen_port, path)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.ended.set())
    service.look()
    service.beat()
    threads = [threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    _say(f"answers on {path}" + (f" and 127.0.0.1:{chosen_port}" if chosen_port else ""))
    try:
        service.watch()
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        durable.remove(path)


class _OnPort(BoundedThreads, ThreadingHTTPServer):
    """Loopback only."""

    service: Service


class _OnSocket(BoundedThreads, socketserver.UnixStreamServer):
    """A Unix socket that the owner and the group may use."""

    service: Service

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("unix", 0)


def _servers(service: Service, port: int, path: Path) -> list[Any]:
    servers: list[Any] = []
    try:
        durable.make_folder(path.parent)
        remove_dead(path)
        servers.append(_OnSocket(str(path), Handler))
        durable.chmod(path, 0o660)
        if port:
            servers.append(_OnPort(("127.0.0.1", port), Handler))
    except OSError as error:
        for server in servers:
            server.server_close()
        raise AgentError("precondition", f"no socket on {path} or port {port}: {error.strerror or error}") from error
    for server in servers:
        server.service = service
    return servers


def _text_of(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _say(line: str) -> None:
    sys.stderr.write(f"edgekd_agent: {line}\n")
    sys.stderr.flush()
