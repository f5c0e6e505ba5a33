"""The command `serve`: answer requests with the engine that runs."""

from __future__ import annotations

from argparse import Namespace

from edgekd_agent.commands.answer import Answer
from edgekd_agent.device import Site, require_allowed


def serve(site: Site, options: Namespace) -> Answer:
    """Serve until the process is asked to end."""
    from edgekd_agent.serve.service import run

    if options.port is not None:
        require_allowed("port", options.port)
    run(site, port=options.port, socket=options.socket)
    return Answer({"schema_version": 1, "result": "ended"}, "ended")
