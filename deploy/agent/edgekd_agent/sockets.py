"""What the agent's servers share: bounded threads, and sockets that a killed server leaves behind."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from pathlib import Path
from typing import Any

from edgekd_agent import durable

_LOOK_S = 0.2


class BoundedThreads(socketserver.ThreadingMixIn):
    """A thread a connection, at most so many at once; more wait in the queue of the system."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # Python's own 5 resets connections of clients that come together
    places = threading.BoundedSemaphore(64)
    is_ending = False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Wait for a place, then start a thread; a server that is to end waits no longer."""
        while not self.places.acquire(timeout=_LOOK_S):
            if self.is_ending:
                self.shutdown_request(request)  # type: ignore[attr-defined]  # of the server beside which this stands
                return
        super().process_request(request, client_address)

    def shutdown(self) -> None:
        """End `serve_forever`, also while all places are taken."""
        self.is_ending = True
        super().shutdown()  # type: ignore[misc]  # likewise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer in the thread, then give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line what went wrong with a connection; the others go on."""
        del request, client_address
        sys.stderr.write(f"edgekd_agent: a connection ended: {sys.exc_info()[1]!r}\n")
        sys.stderr.flush()


def remove_dead(path: Path) -> None:
    """Remove the socket of a server that is gone; one that answers is left, and opening it again will fail."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        if probe.connect_ex(str(path)) != 0:
            durable.remove(path)
