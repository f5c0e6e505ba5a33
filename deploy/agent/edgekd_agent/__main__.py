"""`python -m edgekd_agent`: what an operator, a host or systemd runs on the device."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import edgekd_agent
from edgekd_agent.commands.answer import Answer
from edgekd_agent.device import Site, read_site
from edgekd_agent.errors import AgentError
from edgekd_agent.layout import DEFAULT_ROOT, Layout

_Command = Callable[[Site, argparse.Namespace], Answer]
_COMMANDS = {
    "hello": ("asking", "say who this device is"),
    "want": ("asking", "verify pushed metadata, list the blobs to push"),
    "install": ("changing", "install the release that the pushed metadata name"),
    "status": ("asking", "say where the device stands"),
    "rollback": ("changing", "go back to the previous generation"),
    "confirm": ("changing", "confirm the generation on trial at once"),
    "forgive": ("changing", "forget that a bundle failed here"),
    "gc": ("changing", "remove what nothing needs"),
    "recover": ("changing", "bring the device to rest after a cut"),
    "serve": ("serving", "answer requests with the engine that runs"),
    "attend": ("attending", "answer the operator's login on a Unix socket"),
    "metrics": ("asking", "print the state as Prometheus text"),
    "lock": ("reserving", "reserve the device for an operator"),
    "unlock": ("reserving", "give the device back"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the program name; the process's own by default.

    Returns:
        Exit code: 0 done, 1 failed, 2 usage, 3 health or budget missed, 4 not for this device, 5 a precondition, 6 not
        to be trusted.
    """
    options = _parser().parse_args(arguments)
    try:
        answer = _answer(options)
    except AgentError as error:
        return _fail(error, is_json=options.json)
    except OSError as error:
        from edgekd_agent.install.steps import storage_error

        return _fail(storage_error(error), is_json=options.json)
    sys.stdout.write((json.dumps(answer.document, indent=2) if options.json else answer.text) + "\n")
    return answer.exit_code


def _answer(options: argparse.Namespace) -> Answer:
    if options.command == "verify":
        from edgekd_agent.commands.checking import check

        return check(options)
    if options.command == "version":
        return Answer({"schema_version": 1, "agent": edgekd_agent.__version__}, edgekd_agent.__version__)
    if options.command == "upgrade":
        from edgekd_agent.commands.upgrading import upgrade

        return upgrade(options)
    module, _ = _COMMANDS[options.command]
    command: _Command = getattr(importlib.import_module(f"edgekd_agent.commands.{module}"), options.command)
    return command(read_site(Layout(options.root.absolute())), options)


def _fail(error: AgentError, *, is_json: bool) -> int:
    sys.stderr.write(f"edgekd_agent: {error.message}\n")
    if is_json and error.kind != "usage":
        document = {"schema_version": 1, "error": {"kind": error.kind, "message": error.message}}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgekd_agent", description="Device side of edgekd.")
    parser.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="the agent's folder (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    added = {name: _add(commands, name, help_text) for name, (_, help_text) in _COMMANDS.items()}
    for name in ("install", "recover"):
        added[name].add_argument(
            "--confirm-minutes", type=float, help="wait that long for heartbeats of what serves, else go back"
        )
    added["install"].add_argument("--detach", action="store_true", help="return once it is under way")
    added["rollback"].add_argument("--reason", default="rolled back by an operator", help="kept with the bundle left")
    added["forgive"].add_argument("digest", metavar="DIGEST", help="SHA-256 of the bundle.json")
    for name in ("lock", "unlock"):
        added[name].add_argument("--owner", required=True, help="who works on this device")
    added["unlock"].add_argument("--force", action="store_true", help="even when another has it")
    added["serve"].add_argument("--port", type=int, help="port on 127.0.0.1, 0 for none")
    added["serve"].add_argument("--socket", type=Path, help="path of the Unix socket")
    added["attend"].add_argument("--socket", type=Path, required=True, help="path of the Unix socket")
    added["attend"].add_argument("--user", required=True, help="who may ask there, beside root")
    _add(commands, "version", "print the version of this agent")
    verify = _add(commands, "verify", "compare a bundle folder with its manifest")
    verify.add_argument("folder", type=Path, metavar="DIR", help="the bundle")
    upgrade = _add(commands, "upgrade", "put a new agent in the place of this one")
    upgrade.add_argument("program", type=Path, metavar="FILE", help="the new agent")
    upgrade.add_argument("--sha256", required=True, help="digest it must have")
    upgrade.add_argument("--into", type=Path, required=True, help="folder of the agents (/opt/edgekd)")
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help_text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help_text, description=help_text)
    command.add_argument("--json", action="store_true", help="print one JSON document")
    return command


if __name__ == "__main__":
    sys.exit(main())
