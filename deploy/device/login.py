"""What the operator's login may do on a device: the agent's commands for operators, and SFTP. Forced by its key."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

AGENT = "/opt/edgekd/agent/edgekd-agent.pyz"
ROOT = "/var/lib/edgekd"
COMMANDS = ("hello", "want", "install", "status", "rollback", "confirm", "forgive", "gc", "metrics", "lock", "unlock")
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")


def allowed(text: str) -> list[str] | None:
    """Return program and arguments for what was asked, or None when that is not allowed."""
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    if words[:1] and (words[0] in SFTP_SERVERS or words[0] == "internal-sftp"):
        server = next((path for path in SFTP_SERVERS if Path(path).exists()), None)
        return [server, "-u", "0027"] if server else None
    if words[:4] == ["python3", AGENT, "--root", ROOT] and words[4:5] and words[4] in COMMANDS:
        return [sys.executable, "-I", *words[1:]]
    return None


def main() -> int:
    """Become the program that was asked for."""
    command = allowed(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    if command is None:
        sys.stderr.write("edgekd: this login runs the agent's commands and SFTP, nothing else\n")
        return 1
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    sys.exit(main())
