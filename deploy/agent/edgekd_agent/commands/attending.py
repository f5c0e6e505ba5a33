"""The command `attend`: answer the operator's login on a Unix socket."""

from __future__ import annotations

from argparse import Namespace

from edgekd_agent.commands.answer import Answer
from edgekd_agent.device import Site


def attend(site: Site, options: Namespace) -> Answer:
    """Answer until the process is asked to end."""
    from edgekd_agent.attend.listening import run

    run(site.layout.root, options.socket, options.user)
    return Answer({"schema_version": 1, "result": "ended"}, "ended")
